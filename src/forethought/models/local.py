"""Models that run here: any folder or GGUF file of the Llama family."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.problem import Message
from forethought.core.scope import Call
from forethought.models.protocol import Ability, Completion, Request

if TYPE_CHECKING:
    from forethought.engine.batch import Row
    from forethought.engine.engine import Engine
    from forethought.models.reading import Reader


class Local:
    """A model on the local engine. Loads at its first use.

    Token ids are the state of its drafts: text is encoded only where a draft came without ids. Raises UsageError if the
    path holds no model that the engine can run.
    """

    abilities: frozenset[Ability] = frozenset({"extend", "continue", "logprobs", "loglikelihood", "seed", "ordered"})

    def __init__(self, path: Path, name: str | None = None) -> None:
        if not path.exists():
            raise UsageError(f"{path} is not there: a local model is a folder in Hugging Face format or a GGUF file")
        self.path, self.name = path, name or f"local:{path}"

    @functools.cached_property
    def engine(self) -> Engine:
        try:
            from forethought.engine.engine import Engine
        except ModuleNotFoundError as error:
            raise UsageError(f"local models need {error.name}: pip install 'forethought[local]'") from None
        return Engine.load(self.path, self._stops)

    @functools.cached_property
    def reader(self) -> Reader:
        try:
            from forethought.models.reading import Reader

            return Reader(self.path)
        except ModuleNotFoundError as error:
            raise UsageError(f"local models need {error.name}: pip install 'forethought[local]'") from None

    def ids(self, messages: Sequence[Message], draft: Draft) -> tuple[int, ...]:
        """The token ids of a prompt and the draft so far."""
        from forethought.models.reading import as_chat

        prompt: tuple[int, ...] = self.reader.prompt_ids(as_chat(messages))
        pieces = [d.tokens or self.reader.encode(d.new) for d in draft.lineage() if d.new][::-1]
        return (*prompt, *(i for piece in pieces for i in piece))

    def bound(self, request: Request) -> Cost:
        prompt, new = len(self.ids(request.messages, request.draft)), request.max_tokens
        reads = (prompt + new) * (prompt + new + 1) // 2
        return Cost(
            calls=1,
            prompt_tokens=prompt,
            cached_tokens=prompt,
            new_tokens=new,
            flops=self._flops(prompt + new, reads),
            kv_reads=reads,
            critical_tokens=new,
        )

    def _flops(self, computed: int, reads: int) -> float:
        """Multiplications and additions: twice the parameters a token, and four times the width a token read."""
        shape = self.engine.model.shape
        return 2.0 * shape.parameters * computed + 4.0 * shape.layers * shape.heads * shape.head_dim * reads

    async def extend(self, request: Request, call: Call) -> Completion:
        from forethought.engine.sampling import Sampling

        how = Sampling(
            request.max_tokens,
            request.temperature,
            request.top_p,
            request.min_p,
            request.logprobs,
            request.stop,
            request.forced,
        )
        ids = self.ids(request.messages, request.draft)
        row = await self.engine.generate(ids, how, call.seed, lambda row: call.progress(self._cost(row)))
        assert row.finish is not None
        tokens = row.tokens[:-1] if row.finish == "end" else row.tokens
        prompt = len(ids) - len(request.draft.ids)
        text = self.reader.added(ids[prompt:], tokens)
        top = tuple({self.reader.piece(i): value for i, value in entry.items()} for entry in row.top)
        return Completion(text, row.finish, self._cost(row), tuple(tokens), tuple(row.logprobs[: len(tokens)]), top)

    def _cost(self, row: Row) -> Cost:
        new = len(row.tokens)
        return Cost(
            calls=1,
            prompt_tokens=len(row.ids),
            cached_tokens=row.cached,
            new_tokens=new,
            flops=self._flops(row.computed, row.reads),
            kv_reads=row.reads,
            critical_tokens=new,
        )

    async def loglikelihood(self, request: Request, continuation: str, call: Call) -> tuple[float, ...]:
        ids = self.ids(request.messages, request.draft)
        return await self.engine.loglikelihood(ids, self.reader.encode(continuation))

    def _stops(self, row: Row) -> bool:
        """Whether the last token completed a stop string, also one that began in earlier tokens."""
        if not row.how.stop:
            return False
        last = self.reader.piece(row.tokens[-1])
        if not any(stop[-1] in last for stop in row.how.stop):
            return False
        longest = max(map(len, row.how.stop))
        tail = self.reader.decode(row.tokens[-longest - 1 :])  # every token has at least a part of a character
        return any(stop in tail[-len(last) - len(stop) + 1 :] for stop in row.how.stop)
