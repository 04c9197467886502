"""Reward models behind vLLM's or SGLang's pooling and classification endpoints."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import ModelError, UsageError
from forethought.core.problem import Message, Problem
from forethought.core.registry import require
from forethought.core.scope import Call
from forethought.models.openai import PER_MESSAGE, SPELLING
from forethought.models.openai_wire import Wire
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import one_text, written
from forethought.verifiers.protocol import verifiers

TIMEOUT = 120.0  # seconds without a byte


@functools.cache
def wire(url: str) -> Wire:
    return Wire(url, os.environ.get("OPENAI_API_KEY"), TIMEOUT)


@verifiers.register("reward-endpoint")
@dataclass(frozen=True)
class RewardEndpoint:
    """A process or outcome reward model behind `endpoint` (MODEL@http://host:port/v1), asked once a draft.

    `route=pooling` is vLLM's /pooling for chats: one score, or one entry a step, which is a score or a list of
    probabilities of which `label` counts. `route=classify` is vLLM's /classify for chats and `route=sglang` SGLang's
    /v1/classify, which takes a text: the prompt's messages and the draft below one another. Both give the probabilities of
    the whole. The draft's steps are joined by `separator`, behind each of which such a model grades (`<extra_0>` for
    Qwen2.5-Math-PRM); an outcome reward model wants the text as it is (`separator=''`). `scale=logit` puts unbounded scores on
    [0, 1] by the logistic function. Step pooling reads the whole draft at each call, and so it is charged. Another number of
    entries than steps is an error: a server that pools each token, say.
    """

    name = "reward-endpoint"
    process = True
    endpoint: str | None = None
    route: Literal["pooling", "classify", "sglang"] = "pooling"
    separator: str = "<extra_0>"
    label: int = -1
    scale: Literal["probability", "logit"] = "probability"

    def __post_init__(self) -> None:
        spelled = self.endpoint is None or SPELLING.fullmatch(self.endpoint)
        require(bool(spelled), f"reward-endpoint: write the endpoint as MODEL@http://host:port/v1, not {self.endpoint}")

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        """A token has at least one byte, and a template puts some around each message."""
        messages = self._messages(draft, problem, task)
        size = sum(len(m["content"].encode()) + PER_MESSAGE for m in messages)
        return Cost(verifier_calls=1, verifier_tokens=size + PER_MESSAGE)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        model, url = self._place()
        answer = await self._asked(wire(url), model, self._messages(draft, problem, task))
        cost = Cost(verifier_calls=1, verifier_tokens=int(field(answer, "usage", "prompt_tokens")))
        call.progress(cost)
        if self.route != "pooling":
            return Grade(self._score(field(answer, "data", 0, "probs"))), cost
        entries = field(answer, "data", 0, "data")
        scores = tuple(self._score(entry) for entry in (entries if isinstance(entries, list) else [entries]))
        steps = len(steps_of(written(draft), task))
        if self.separator and len(scores) != steps:
            told = f"{len(scores)} scores for {steps} steps"
            raise ModelError(f"{url} gave {told}: is '{self.separator}' what its model grades behind?")
        if not scores:
            raise ModelError(f"{url} gave no score")
        return Grade(scores[-1], scores if self.separator else ()), cost

    async def _asked(self, wire: Wire, model: str, messages: Sequence[Message]) -> Any:
        if self.route == "sglang":
            return await wire.post_root("/v1/classify", {"model": model, "input": one_text(messages)})
        return await wire.post_root(f"/{self.route}", {"model": model, "messages": list(messages)})

    def _place(self) -> tuple[str, str]:
        found = SPELLING.fullmatch(self.endpoint or "")
        if found is None:
            raise UsageError("reward-endpoint needs an endpoint: reward-endpoint(endpoint='MODEL@http://host:port/v1')")
        return found["model"], found["url"]

    def _messages(self, draft: Draft, problem: Problem, task: Task) -> tuple[Message, ...]:
        text = written(draft)
        if self.separator:
            text = "".join(step + self.separator for step in steps_of(text, task))
        return (*task.prompt(problem), {"role": "assistant", "content": text})

    def _score(self, entry: Any) -> float:
        try:
            value = float(entry[self.label] if isinstance(entry, list) else entry)
        except (TypeError, ValueError, IndexError):
            raise ModelError(f"the reward endpoint gave no number: {str(entry)[:80]}") from None
        if self.scale == "logit" and math.isfinite(value):
            return 0.5 + 0.5 * math.tanh(value / 2)
        if not 0 <= value <= 1:
            raise ModelError(f"the reward endpoint gave {value}, which is no probability; for scores take scale=logit")
        return value


def steps_of(text: str, task: Task) -> list[str]:
    """The steps of a text by the task's break, without what is empty."""
    pieces = text.split(task.step_break) if task.step_break else [text]
    return [piece.strip() for piece in pieces if piece.strip()] or [""]


def field(answer: Any, *path: str | int) -> Any:
    """What stands at a path of keys and indices. Raises ModelError if it is not there."""
    for key in path:
        try:
            answer = answer[key]
        except (KeyError, IndexError, TypeError):
            raise ModelError(f"the reward endpoint's answer has no {'.'.join(map(str, path))}") from None
    return answer
