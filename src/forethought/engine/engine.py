"""Continuous batching without a thread of its own: whoever waits drives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from forethought.core.errors import UsageError
from forethought.core.together import together
from forethought.engine.batch import Batch, Statistics
from forethought.engine.llama import Llama
from forethought.engine.pages import pages_of
from forethought.engine.rows import Hook, Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load

KV_BYTES = 1 << 30  # for keys and values
MAX_ROWS = 64  # sequences that are decoded together; others wait in order
TOKENS_A_HOP = 8  # decode steps between two looks at the event loop


@dataclass(frozen=True, slots=True)
class Scored:
    """A classifier's word on each token of a text, how many of these tokens had to be computed, and how many token-steps
    attention read for that.
    """

    outputs: tuple[float, ...]
    computed: int
    reads: int = 0


@dataclass(slots=True, eq=False)
class _Waiter:
    row: Row
    wake: anyio.Event = field(default_factory=anyio.Event)
    error: Exception | None = None


class Engine:
    """One model, many concurrent requests. Safe to call from any number of tasks of one event loop at a time.

    Requests that arrive together are one batch; later ones join at the next hop, finished ones leave at once. There is no
    timer: the first waiter runs the batch, in a worker thread, until its own request is done, then another one takes over.
    """

    def __init__(
        self, model: Llama, stops: Callable[[Row], bool], kv_bytes: int = KV_BYTES, rows: int = MAX_ROWS
    ) -> None:
        self.model = model
        self.batch = Batch(model, kv_bytes, rows, stops)
        self._waiters: list[_Waiter] = []
        self._driven = False

    @classmethod
    def load(cls, path: Path, stops: Callable[[Row], bool]) -> Engine:
        return cls(load(path), stops)

    @property
    def statistics(self) -> Statistics:
        """What it has done so far."""
        return self.batch.statistics

    async def generate(
        self,
        ids: Sequence[int],
        how: Sampling,
        seed: int,
        progress: Callable[[Row], None] = lambda row: None,
        hook: Hook | None = None,
    ) -> Row:
        """Sample a continuation of `ids`. A cancelled request frees its row at the next step.

        `progress` is told of the row after some steps, and once more if the request ends without a result. `hook` looks at
        each token before it is drawn. Raises UsageError for a classifier, where there is nothing to go on from, and for
        what can never fit; ModelError if the model's logits are not numbers; what the hook raises.
        """
        if self.model.classifies:
            raise UsageError("a classifier cannot generate: this needs a generator")
        if not ids:
            raise UsageError("the prompt is empty: a model needs at least one token to go on from")
        return await self._run(Row(tuple(ids), how, seed, progress, hook=hook))

    async def score(self, ids: Sequence[int]) -> Scored:
        """Read `ids` with a classifier: the probability of label 1 after each token. Nothing is read twice.

        Raises UsageError for a model that is no classifier.
        """
        if not self.model.classifies:
            raise UsageError("a generator cannot grade: this needs a LlamaForTokenClassification")
        row = await self._run(Row(tuple(ids), Sampling(0), 0))
        return Scored(tuple(row.outputs), row.computed, row.reads)

    async def loglikelihood(
        self, ids: Sequence[int], continuation: Sequence[int], progress: Callable[[Row], None] = lambda row: None
    ) -> tuple[float, ...]:
        """The natural log-probability of each token of `continuation` after `ids`, in one pass.

        Raises UsageError if `ids` is empty.
        """
        if not ids:
            raise UsageError("the prompt is empty: the first token of a text has no likelihood")
        row = Row((*ids, *continuation), Sampling(0), 0, progress, graded_from=len(ids))
        return tuple((await self._run(row)).logprobs)

    async def loglikelihoods(
        self, ids: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[tuple[float, ...]]:
        """`loglikelihood` of many continuations, which are one batch: `ids` is read once."""
        return await together([partial(self.loglikelihood, ids, continuation) for continuation in continuations])

    async def read(self, ids: Sequence[int], top: int = 0) -> Row:
        """The log-probabilities of a prompt: of each token after the first, with `top` alternatives to each.

        Raises UsageError if `ids` is empty.
        """
        if not ids:
            raise UsageError("the prompt is empty: there is nothing to read")
        return await self._run(Row(tuple(ids), Sampling(0, top=top), 0, graded_from=1))

    def _check(self, row: Row) -> None:
        """Refuse what can never be answered, before it can harm others."""
        if row.how.max_tokens < 0 or row.seed < 0:
            raise UsageError("the number of new tokens and the seed cannot be negative")
        for name, least in (("temperature", 0.0), ("top_p", 0.0), ("min_p", 0.0), ("top_k", 0), ("repetition", 1e-6)):
            value = getattr(row.how, name)
            if not least <= value < math.inf:
                raise UsageError(f"{name} must be a number of at least {least:g}, not {value}")
        asked = (*row.ids, *row.how.forced, *row.how.banned)
        outside = next((i for i in asked if not 0 <= i < self.model.vocabulary), None)
        if outside is not None:
            raise UsageError(f"token {outside} is not in the vocabulary of {self.model.vocabulary}")
        if len(row.ids) + bool(row.how.max_tokens) > self.model.shape.positions:
            raise UsageError(f"the prompt has {len(row.ids)} tokens; this model reads {self.model.shape.positions}")
        pages = self.batch.pages
        if pages_of(row.most) > pages.count:
            need, have = pages_of(row.most) * pages.page_bytes, pages.count * pages.page_bytes
            raise UsageError(
                f"{len(row.ids)} tokens and {row.how.max_tokens} new ones need {need / 1e6:.1f} MB for keys and values; "
                f"there are {have / 1e6:.1f} MB"
            )

    async def _run(self, row: Row) -> Row:
        self._check(row)
        waiter = _Waiter(row)
        self._waiters.append(waiter)
        self.batch.waiting.append(row)
        try:
            while not row.done and waiter.error is None:
                if self._driven:
                    await waiter.wake.wait()
                    waiter.wake = anyio.Event()
                else:
                    await self._drive(waiter)
        finally:
            self._waiters.remove(waiter)
            row.cancelled = not row.done
            self._hand_over()
            if row.cancelled:
                row.progress(row)
        if error := waiter.error or row.error:
            raise error
        return row

    async def _gather(self) -> None:
        """Let concurrent callers join the first step: wait until two looks at the event loop in a row bring no more of them.

        Two, since trio shuffles a pass: of callers that come in every pass, none may come between one look and the next.
        """
        waiting = idle = 0
        while idle < 2:
            idle = 0 if waiting < len(self._waiters) else idle + 1
            waiting = len(self._waiters)
            await anyio.lowlevel.checkpoint()

    async def _drive(self, leader: _Waiter) -> None:
        """Run the batch until the leader's request is done. An error of a step is an error of all that were in it."""
        self._driven = True
        try:
            await self._gather()
            while not leader.row.done and leader.error is None:
                await anyio.to_thread.run_sync(self.batch.run, TOKENS_A_HOP)
                for waiter in self._waiters:
                    _tell(waiter)
        except Exception as error:  # noqa: BLE001 - raised again by every waiter of the failed step
            self.batch.clear()
            for waiter in self._waiters:
                waiter.error = error
                waiter.wake.set()
        finally:
            self._driven = False

    def _hand_over(self) -> None:
        """If nobody drives, let the next one; the cancelled are freed by the next step, or here if there will be none."""
        if not self._driven:
            self.batch.tidy()
            if self._waiters:
                self._waiters[0].wake.set()


def _tell(waiter: _Waiter) -> None:
    """Tell of the progress. A listener that fails fails its own row, as a hook does."""
    try:
        waiter.row.progress(waiter.row)
    except Exception as error:  # noqa: BLE001 - raised again by the one who waits for this row
        waiter.error = error
    if waiter.row.done or waiter.error is not None:
        waiter.wake.set()
