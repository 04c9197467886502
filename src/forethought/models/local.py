"""Models that run here: any folder or GGUF file of the Llama family."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.problem import Message
from forethought.core.registry import require
from forethought.core.scope import Call
from forethought.models.protocol import Ability, Completion, Request

if TYPE_CHECKING:
    from forethought.engine.engine import Engine
    from forethought.engine.placement import Precision
    from forethought.engine.rows import Row
    from forethought.engine.sampling import Sampling
    from forethought.models.reading import Reader

PART = "\ufffd"
KINDS_OF_FILES = frozenset(  # weights, configuration, tokenizer, template
    {".safetensors", ".bin", ".json", ".model", ".txt", ".jinja"}
)


class Local:
    """A model on the local engine, with `kv_bytes` of memory for keys and values, in the precision asked for, else the
    best. Loads at its first use.

    Token ids are the state of its drafts: text is encoded only where a draft came without ids of its vocabulary. Raises
    UsageError if the path holds no model that the engine can run, or the memory is more than there is.
    """

    abilities: frozenset[Ability] = frozenset(
        {"extend", "continue", "logprobs", "loglikelihood", "seed", "ordered", "controls"}
    )

    def __init__(
        self,
        path: Path,
        name: str | None = None,
        kv_bytes: int | None = None,
        precision: Precision | None = None,
    ) -> None:
        if not path.exists():
            raise UsageError(f"{path} is not there: a local model is a folder in Hugging Face format or a GGUF file")
        self.path, self.name = path, name or "+".join(filter(None, (f"local:{path}", precision)))
        self._kv_bytes, self._precision = kv_bytes, precision
        self.written = functools.lru_cache(maxsize=4096)(self._written)  # each call asks several times

    @functools.cached_property
    def engine(self) -> Engine:
        with needed():
            from forethought.engine.compute import computed
            from forethought.engine.engine import KV_BYTES, Engine
            from forethought.engine.weights import load

            kv_bytes = KV_BYTES if self._kv_bytes is None else self._kv_bytes
            model = computed(lambda: load(self.path, self._precision))
            try:
                return Engine(model, self._stops, kv_bytes)
            except RuntimeError:  # torch says so of memory that it does not get
                size = f"{kv_bytes / (1 << 30):.4g} GiB"
                raise UsageError(f"this machine cannot hold {size} of keys and values: allow less memory") from None

    @functools.cached_property
    def reader(self) -> Reader:
        with needed():
            from forethought.models.reading import Reader

            return Reader(self.path)

    def load(self) -> None:
        """Load now what else would be loaded at the first use."""
        _ = self.reader.vocabulary, self.engine, self.weights

    @functools.cached_property
    def weights(self) -> str:
        """The model's files by their content, wherever they lie: a short hash."""
        return fingerprint(self.path)

    def ids(self, messages: Sequence[Message], draft: Draft) -> tuple[int, ...]:
        """The token ids of a prompt and the draft so far."""
        return self.prompt_ids(messages) + self.written(draft)

    def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The token ids of a prompt."""
        from forethought.models.reading import as_chat

        found: tuple[int, ...] = self.reader.prompt_ids(as_chat(messages))
        return found

    def _written(self, draft: Draft) -> tuple[int, ...]:
        """The ids of a draft. A piece may have ids and no text: the first bytes of a character."""
        pieces = [self._ids_of(piece) for piece in draft.lineage()]
        return tuple(i for piece in reversed(pieces) for i in piece)

    def _ids_of(self, piece: Draft) -> tuple[int, ...]:
        """Its own ids if they are of this vocabulary; another model's ids mean other words here, so its text is encoded."""
        if piece.tokens and piece.vocabulary == self.reader.vocabulary:
            return piece.tokens
        return self.reader.encode(piece.new) if piece.new else ()

    def bound(self, request: Request) -> Cost:
        """By an exact count of the prompt and `max_tokens` new ones. The first call loads the model."""
        prompt, new = len(self.prompt_ids(request.messages)) + len(self.written(request.draft)), request.max_tokens
        reads = (prompt + new) * (prompt + new + 1) // 2
        return Cost(
            calls=1,
            prompt_tokens=prompt,
            cached_tokens=prompt,
            new_tokens=new,
            flops=self.engine.model.shape.flops(prompt + new, reads),
            kv_reads=reads,
            critical_tokens=new,
        )

    async def extend(self, request: Request, call: Call) -> Completion:
        """Draw one continuation. Its texts join to the text of all ids: the first bytes of a character wait for the rest."""
        require(request.max_tokens > 0, "a completion needs room for one new token at least: max_tokens is 0")
        ids, written = self.ids(request.messages, request.draft), self.written(request.draft)
        engine, how, hook = self.engine, sampling(request), request.controls.hook
        row = await engine.generate(ids, how, call.seed, lambda row: call.progress(self._cost(row)), hook, len(written))
        assert row.finish is not None
        tokens = tuple(row.tokens[:-1] if row.finish == "end" else row.tokens)
        text = self._added(written, tokens, row.finish == "end")
        top = tuple(self._named(entry) for entry in row.top[: len(tokens) + (row.finish == "hook")])
        told = tokens, tuple(row.logprobs[: len(tokens)]), top, self.reader.vocabulary
        return Completion(text, row.finish, self._cost(row), *told)

    def _added(self, before: tuple[int, ...], new: tuple[int, ...], last: bool) -> str:
        """The text that `new` adds after `before`; all of it if it is the `last`, else up to the last whole character."""
        whole, head = self.reader.decode(before + new), complete(self.reader.decode(before))
        return (whole if last else complete(whole))[len(head) :]

    def _named(self, top: Mapping[int, float]) -> dict[str, float]:
        """Alternatives by their texts. Of two that read the same, the likelier counts."""
        return {self.reader.piece(token): value for token, value in reversed(list(top.items()))}

    def _cost(self, row: Row) -> Cost:
        new = len(row.tokens)
        return Cost(
            calls=1,
            prompt_tokens=len(row.ids),
            cached_tokens=row.cached,
            new_tokens=new,
            flops=self.engine.model.shape.flops(row.computed, row.reads),
            kv_reads=row.reads,
            critical_tokens=new,
        )

    async def loglikelihood(self, request: Request, continuation: str, call: Call) -> tuple[float, ...]:
        """Natural log-probabilities, one a token. `call.progress` is told what it took."""
        ids = self.ids(request.messages, request.draft)
        asked = self.reader.encode(continuation)
        return await self.engine.loglikelihood(ids, asked, lambda row: call.progress(self._cost(row)))

    def _stops(self, row: Row) -> bool:
        """Whether the last token completed a stop string in the text that is returned, also one that began in earlier tokens,
        or in a character whose first bytes are in the draft.
        """
        stops = row.how.stop
        if not stops or not self._may_end(row.tokens[-1], stops):
            return False
        longest = max(len(stop.encode()) for stop in stops)
        start = self.reader.back(row.tokens, longest + 1)  # a token that shows anything has at least a byte
        before = (*row.ids[len(row.ids) - row.written :], *row.tokens[:start])
        context = before[self.reader.back(before, 4) :]  # the first bytes of a character, and a token before a space
        tail = self._added(context, tuple(row.tokens[start:]), False)
        return any(stop in tail for stop in stops)  # an earlier one would have ended the row earlier

    def _may_end(self, token: int, stops: tuple[str, ...]) -> bool:
        """A quick look at one token. Alone it may have lost a space (decoders strip no other white space) or show its bytes as
        U+FFFD: look closer then.
        """
        piece = self.reader.piece(token)
        return any(PART in piece or stop[-1] == " " or stop[-1] in piece for stop in stops)


def sampling(request: Request) -> Sampling:
    from forethought.engine.sampling import Sampling

    c = request.controls
    return Sampling(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        min_p=request.min_p,
        top=request.logprobs,
        stop=request.stop,
        forced=request.forced,
        top_k=request.top_k,
        repetition=c.repetition,
        presence=c.presence,
        frequency=c.frequency,
        banned=c.banned,
        min_tokens=c.min_tokens,
    )


def fingerprint(path: Path) -> str:
    """A short hash of a GGUF file, or of those files of a folder that a model is made of, with their names.

    Raises UsageError if they cannot be read.
    """
    whole = hashlib.sha256()
    try:
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in KINDS_OF_FILES)
        for file in files:
            with file.open("rb") as opened:
                whole.update(file.name.encode() + b"\0" + hashlib.file_digest(opened, "sha256").digest())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    return whole.hexdigest()[:16]


@contextmanager
def needed() -> Iterator[None]:
    """Tell a missing library of the extra `local` in one line."""
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"local models need {error.name or 'more libraries'}: pip install 'forethought[local]'"
        ) from None


def complete(text: str) -> str:
    """A decoded text up to its last whole character: bytes of the next one are decoded to U+FFFD."""
    return text.rstrip(PART)
