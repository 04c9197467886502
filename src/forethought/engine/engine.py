"""Continuous batching without a thread of its own: whoever waits drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

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
    """A classifier's word on each token of a text, and how many of these tokens had to be computed."""

    outputs: tuple[float, ...]
    computed: int


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
        """Sample a continuation of `ids`. A cancelled request frees its row at the next step."""
        return await self._run(Row(tuple(ids), how, seed, progress))

    async def score(self, ids: Sequence[int]) -> Scored:
        """Read `ids` with a classifier: the probability of label 1 after each token. Nothing is read twice."""
        row = await self._run(Row(tuple(ids), Sampling(0), 0))
        return Scored(tuple(row.outputs), row.computed)

    async def loglikelihood(self, ids: Sequence[int], continuation: Sequence[int]) -> tuple[float, ...]:
        """The log-probability of each token of `continuation` after `ids`, in one pass."""
        row = Row((*ids, *continuation), Sampling(0), 0, graded_from=len(ids))
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
            row.cancelled = not row.done
            self._waiters.remove(waiter)
            self._hand_over()
        if waiter.error is not None:
            raise waiter.error
        return row

    async def _drive(self, leader: _Waiter) -> None:
        """Run the batch until the leader's request is done. An error of a step is an error of all that were in it."""
        self._driven = True
        try:
            await anyio.lowlevel.checkpoint()  # let concurrent callers join the first step
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
        if self._driven:
            return
        if self._waiters:
            self._waiters[0].wake.set()
        else:
            self.batch.clear()  # only the cancelled are left
