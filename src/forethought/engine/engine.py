"""Continuous batching without a thread of its own: whoever waits drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from forethought.core.errors import UsageError
from forethought.engine.batch import Batch, Row
from forethought.engine.llama import Llama
from forethought.engine.prefixes import PrefixTree
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load

KV_BYTES = 1 << 30  # what the prefix tree may hold
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
        self.batch = Batch(model, PrefixTree(kv_bytes), rows, stops)
        self._waiters: list[_Waiter] = []
        self._driven = False

    @classmethod
    def load(cls, path: Path, stops: Callable[[Row], bool]) -> Engine:
        return cls(load(path), stops)

    async def generate(
        self, ids: Sequence[int], how: Sampling, seed: int, progress: Callable[[Row], None] = lambda row: None
    ) -> Row:
        """Sample a continuation of `ids`. A cancelled request frees its row at the next step.

        `progress` is told of the row after some steps, and once more if the request ends without a result. Raises
        UsageError for a classifier, and where there is nothing to go on from.
        """
        if self.model.head_bias is not None:
            raise UsageError("a classifier cannot generate: this needs a generator")
        if not ids:
            raise UsageError("the prompt is empty: a model needs at least one token to go on from")
        return await self._run(Row(tuple(ids), how, seed, progress))

    async def score(self, ids: Sequence[int]) -> Scored:
        """Read `ids` with a classifier: the probability of label 1 after each token. Nothing is read twice.

        Raises UsageError for a model that is no classifier.
        """
        if self.model.head_bias is None:
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

    async def _run(self, row: Row) -> Row:
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
            if not row.done:
                row.cancelled = True
                row.progress(row)
            self._hand_over()
        if waiter.error is not None:
            raise waiter.error
        return row

    async def _gather(self) -> None:
        """Let concurrent callers join the first step: wait until a look at the event loop brings no more of them."""
        waiting = 0
        while waiting < len(self._waiters):
            waiting = len(self._waiters)
            await anyio.lowlevel.checkpoint()

    async def _drive(self, leader: _Waiter) -> None:
        """Run the batch until the leader's request is done. An error of a step is an error of all that were in it."""
        self._driven = True
        try:
            await self._gather()
            while not leader.row.done:
                await anyio.to_thread.run_sync(self.batch.run, TOKENS_A_HOP)
                for waiter in self._waiters:
                    waiter.row.progress(waiter.row)
                    if waiter.row.done:
                        waiter.wake.set()
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
