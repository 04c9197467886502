"""Continuous batching without a thread of its own: whoever waits drives."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread

from forethought.core.errors import UsageError
from forethought.core.registry import require
from forethought.core.together import together
from forethought.engine.batch import Batch, Statistics
from forethought.engine.compute import computed
from forethought.engine.llama import Llama
from forethought.engine.pages import pages_of
from forethought.engine.rows import Hook, Row
from forethought.engine.sampling import Sampling

KV_BYTES = 1 << 30  # for keys and values
MAX_ROWS = 128  # sequences that are decoded together; others wait in order
HOP = 0.05  # seconds of decode steps between two looks at the event loop


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
    """One model, many concurrent requests, from any number of tasks of one event loop at a time: while some wait, a request
    from another thread is refused with UsageError.

    Requests that arrive together are one batch; later ones join at the next step, finished ones leave at once. There is no
    timer: the first waiter runs the batch, in a worker thread, until its own request is done, then another one takes over.
    """

    def __init__(
        self, model: Llama, stops: Callable[[Row], bool], kv_bytes: int = KV_BYTES, rows: int = MAX_ROWS
    ) -> None:
        self.model = model
        self.batch = Batch(model, kv_bytes, rows, stops)
        self._waiters: list[_Waiter] = []
        self._driven = False
        self._joined = list[Row]()  # since the last hop began
        self._thread = 0  # of those who wait
        self._joining = threading.Lock()

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
        written: int = 0,
    ) -> Row:
        """Sample a continuation of `ids`, of which the last `written` are the draft that it goes on from. A cancelled request
        frees its row at the next step, one that drives the batch at the end of its hop.

        `progress` is told of the row after some steps, and once more if the request ends without a result. `hook` looks at
        each token before it is drawn. Raises UsageError for a classifier, where there is nothing to go on from, and for
        what can never fit; ModelError if the model's logits are not numbers; what the hook raises.
        """
        require(not self.model.classifies, "a classifier cannot generate: this needs a generator")
        require(bool(ids), "the prompt is empty: a model needs at least one token to go on from")
        return await self._run(Row(tuple(ids), how, seed, progress, hook=hook, written=written))

    async def score(self, ids: Sequence[int]) -> Scored:
        """Read `ids` with a classifier: the probability of label 1 after each token. Nothing is read twice.

        Raises UsageError for a model that is no classifier.
        """
        require(self.model.classifies, "a generator cannot grade: this needs a LlamaForTokenClassification")
        row = await self._run(Row(tuple(ids), Sampling(0), 0))
        return Scored(tuple(row.outputs), row.computed, row.reads)

    async def loglikelihood(
        self, ids: Sequence[int], continuation: Sequence[int], progress: Callable[[Row], None] = lambda row: None
    ) -> tuple[float, ...]:
        """The natural log-probability of each token of `continuation` after `ids`, in one pass.

        Raises UsageError if `ids` is empty, and for a classifier.
        """
        require(not self.model.classifies, "a classifier knows no likelihoods: this needs a generator")
        require(bool(ids), "the prompt is empty: the first token of a text has no likelihood")
        row = Row((*ids, *continuation), Sampling(0), 0, progress, graded_from=len(ids))
        return tuple((await self._run(row)).logprobs)

    async def loglikelihoods(
        self, ids: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> list[tuple[float, ...]]:
        """`loglikelihood` of many continuations, which are one batch: `ids` is read once."""
        return await together([partial(self.loglikelihood, ids, continuation) for continuation in continuations])

    async def read(self, ids: Sequence[int], top: int = 0) -> Row:
        """The log-probabilities of a prompt: of each token after the first, with `top` alternatives to each.

        Raises UsageError if `ids` is empty, and for a classifier.
        """
        require(not self.model.classifies, "a classifier knows no likelihoods: this needs a generator")
        require(bool(ids), "the prompt is empty: there is nothing to read")
        return await self._run(Row(tuple(ids), Sampling(0, top=top), 0, graded_from=1))

    def _check(self, row: Row) -> None:
        """Refuse what makes no sense, before it can harm others."""
        row.how.check()
        require(
            isinstance(row.seed, int) and row.seed >= 0, f"a seed must be a whole number of at least 0, not {row.seed}"
        )
        asked, vocabulary = (*row.ids, *row.how.forced, *row.how.banned), self.model.vocabulary
        if not asked or ({*map(type, asked)} == {int} and min(asked) >= 0 and max(asked) < vocabulary):
            return
        strange = [i for i in asked if not (isinstance(i, int) and 0 <= i < vocabulary)]
        if strange:
            raise UsageError(f"token {strange[0]} is not in the vocabulary of {vocabulary}")

    def _fit(self, row: Row) -> None:
        """Ask for no more than the model's positions allow, and refuse what can never be answered."""
        room = self.model.shape.positions + 1 - len(row.ids)  # the last token is not read any more
        if room < 1:
            raise UsageError(f"the prompt has {len(row.ids)} tokens; this model reads {self.model.shape.positions}")
        if row.how.max_tokens > room:
            row.how = replace(row.how, max_tokens=room)
        pages = self.batch.pages
        if pages_of(row.most) > pages.count:
            need, have = (count * pages.page_bytes / 1e3 for count in (pages_of(row.most), pages.count))
            raise UsageError(
                f"{len(row.ids)} tokens and {row.how.max_tokens} new ones need {need:,.0f} kB for keys and values; "
                f"there are {have:,.0f} kB"
            )

    def _join(self, row: Row) -> _Waiter:
        """Put a row in the queue. All that wait at one time are tasks of one thread: events are none of another's."""
        thread, waiter = threading.get_ident(), _Waiter(row)
        with self._joining:
            if self._waiters and thread != self._thread:
                raise UsageError("this model is in use in another thread: wait for it, or load another of it there")
            self._thread = thread
            self._waiters.append(waiter)
            self.batch.waiting.append(row)
        self._joined.append(row)
        return waiter

    async def _run(self, row: Row) -> Row:
        self._check(row)
        self._fit(row)
        waiter = self._join(row)
        try:
            while not row.done and waiter.error is None:
                if self._driven:
                    if waiter.wake.is_set():  # to drive, which another did first
                        waiter.wake = anyio.Event()
                    await waiter.wake.wait()
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
        """Run the batch until the leader's request is done."""
        self._driven = True
        try:
            await self._gather()
            while not leader.row.done and leader.error is None:
                self._group()
                await anyio.to_thread.run_sync(computed, partial(self.batch.run, seconds=HOP))
                for waiter in self._waiters:
                    _tell(waiter)
        except Exception as error:  # noqa: BLE001 - raised again by every waiter of the failed step
            self._fail(error)
        finally:
            self._driven = False

    def _group(self) -> None:
        joined, self._joined = self._joined, []
        if len(joined) > 1:
            self.batch.group(sum(row.waits for row in joined))

    def _fail(self, error: Exception) -> None:
        """An error of a step is an error of all that were in it; of all that wait if none was, or it would come again."""
        self.batch.clear()
        unanswered = [waiter for waiter in self._waiters if not waiter.row.done]
        for waiter in [w for w in unanswered if w.row not in self.batch.waiting] or unanswered:
            waiter.error = error
            waiter.wake.set()

    def _hand_over(self) -> None:
        """If nobody drives, let the next one; the cancelled are freed by the next step, or here if there will be none."""
        if self._driven:
            return
        with self._joining:  # who joins now, from another thread, comes behind
            if not self._waiters:
                self.batch.tidy()
            elif self._thread == threading.get_ident():
                self._waiters[0].wake.set()


def _tell(waiter: _Waiter) -> None:
    """Tell of the progress, if there can be any. A listener that fails fails its own row, as a hook does."""
    if waiter.row.waits:
        return
    try:
        waiter.row.progress(waiter.row)
    except Exception as error:  # noqa: BLE001 - raised again by the one who waits for this row
        waiter.error = error
    if waiter.row.done or waiter.error is not None:
        waiter.wake.set()
