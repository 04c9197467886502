"""Our model and verifier as its-hub wants them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from its_hub import AbstractLanguageModel, AbstractOutcomeRewardModel, AbstractProcessRewardModel

from .session import END, Session

Messages = list[Any]


class LanguageModel(AbstractLanguageModel):
    def __init__(self, session: Session) -> None:
        self._session = session

    async def agenerate(self, messages: Messages, stop: str | None = None, **other: Any) -> Any:
        if messages and isinstance(messages[0], list):
            return await asyncio.gather(*(self.agenerate_single(chat, stop) for chat in messages))
        return await self.agenerate_single(messages, stop)

    async def agenerate_single(self, messages: Messages, stop: str | None = None, **other: Any) -> dict[str, str]:
        so_far = messages[-1].content if messages[-1].role == "assistant" else ""
        return {"role": "assistant", "content": await self._session.extend(so_far, stop)}


class OutcomeModel(AbstractOutcomeRewardModel):
    def __init__(self, session: Session) -> None:
        self._session = session

    async def ascore(self, conversations: Sequence[Messages], *args: Any, **other: Any) -> list[float]:
        texts = [chat[-1].content.removesuffix(END) for chat in conversations]
        return list(await asyncio.gather(*map(self._session.grade, texts)))

    def score(self, *args: Any, **other: Any) -> list[float]:
        raise NotImplementedError("scored asynchronously")


class ProcessModel(AbstractProcessRewardModel):
    def __init__(self, session: Session) -> None:
        self._session = session

    async def ascore(self, prompt: str, responses: Sequence[str], *args: Any, **other: Any) -> list[float]:
        texts = [response.removesuffix(END) for response in responses]
        return list(await asyncio.gather(*map(self._session.grade, texts)))

    def score(self, *args: Any, **other: Any) -> list[float]:
        raise NotImplementedError("scored asynchronously")
