"""A place in a running program: its randomness, its limits, its trace."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, Protocol

import anyio
import numpy as np
from numpy.typing import NDArray

from forethought.core.budget import NO_LIMITS, Account, Budget
from forethought.core.cost import ZERO, Cost
from forethought.core.errors import BudgetEnded
from forethought.core.trace import Event, MemoryTrace, Path, Trace

Failures = Literal["fail", "drop"]


class Source(Protocol):
    """Where random choices come from. A choice is named by its place, so no schedule can change it."""

    def choose(self, place: Path, probs: Sequence[float]) -> int: ...

    def choose_many(self, place: Path, probs: Sequence[float], n: int) -> NDArray[np.intp]: ...

    def seed(self, place: Path) -> int: ...


@dataclass(frozen=True, slots=True)
class Seeded:
    """Choices by a hash of the run's seed and the place."""

    run: int

    def seed(self, place: Path) -> int:
        digest = blake2b(f"{self.run}:{'.'.join(map(str, place))}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def choose(self, place: Path, probs: Sequence[float]) -> int:
        u = self.seed(place) / 2.0**63 * math.fsum(probs)
        for i, p in enumerate(probs):
            u -= p
            if u < 0:
                return i
        return max(i for i, p in enumerate(probs) if p > 0)  # only by rounding

    def choose_many(self, place: Path, probs: Sequence[float], n: int) -> NDArray[np.intp]:
        edges = np.cumsum(probs)
        uniforms = np.random.Generator(np.random.Philox(self.seed(place))).random(n)
        last = int(np.flatnonzero(np.asarray(probs))[-1])
        picks: NDArray[np.intp] = np.searchsorted(edges, uniforms * edges[-1], side="right")
        return np.minimum(picks, last)


def loop_time() -> Callable[[], float]:
    """The event loop's own clock; `anyio.current_time` looks for the loop at each call, which is several times a call here."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:  # another kind of loop
        return anyio.current_time


class Clock:
    """Seconds since the run began. A resumed run goes on at the recorded time, and its deadlines with it."""

    def __init__(self) -> None:
        self._zero: float | None = None
        self._time: Callable[[], float] = anyio.current_time
        self.deadlines: set[anyio.CancelScope] = set()

    def now(self) -> float:
        if self._zero is None:
            self._time = loop_time()
            self._zero = self._time()
            return 0.0
        return self._time() - self._zero

    def advance(self, to: float) -> None:
        """Let the clock show at least `to`."""
        ahead = to - self.now()
        if ahead > 0 and self._zero is not None:
            self._zero -= ahead
            for scope in self.deadlines:
                scope.deadline -= ahead


@dataclass(slots=True)
class Run:
    """What all places of one run share. `seconds` is when, by the clock, the whole run has to be over."""

    source: Source = field(default_factory=lambda: Seeded(0))
    trace: Trace = field(default_factory=MemoryTrace)
    clock: Clock = field(default_factory=Clock)
    failures: Failures = "fail"
    ordered: bool = True
    seconds: float = math.inf
    physical_calls: int = 0
    replayed: int = 0  # calls whose result an earlier life had bought
    again: list[Path] = field(default_factory=list)  # calls in flight when an earlier life ended, issued again
    dropped: int = 0
    short: bool = False  # the budget cut a draft, a race or a round of grading short


class Call:
    """One call to a model or a verifier: where it stands, its seed, and what it has cost so far."""

    __slots__ = ("place", "seed", "so_far")

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.seed = place, seed
        self.so_far: Cost | None = None

    def progress(self, cost: Cost) -> None:
        """Tell what the call has cost up to now; charged if it is cancelled or fails."""
        self.so_far = cost


class Scope:
    """A place in a program. It names random choices, calls and child places by position, never by time."""

    __slots__ = ("_tick", "account", "kept", "over", "path", "resumed", "run")

    def __init__(self, run: Run, account: Account, path: Path = (), around: Scope | None = None) -> None:
        self.run, self.account, self.path = run, account, path
        self.resumed: bool = around is not None and around.resumed  # the next call may have been in flight before
        self.over: Event | None = around.over if around else None  # time was over here in an earlier life
        self.kept: Sequence[Any] | None = None
        self._tick = 0

    @classmethod
    def root(cls, run: Run | None = None, budget: Budget | None = None) -> Scope:
        """The first place of a run. Limits on seconds need `limit` besides: time is only kept inside it."""
        return cls(run or Run(), Account(None, budget.limits if budget else NO_LIMITS))

    def next(self) -> Path:
        """The place of the next thing that happens here."""
        self._tick += 1
        return (*self.path, self._tick)

    @property
    def here(self) -> Path:
        """The place that was taken last."""
        return (*self.path, self._tick)

    def draw(self, probs: Sequence[float]) -> int:
        """Draw an index with the given probabilities (they need not sum to one)."""
        return self.run.source.choose(self.next(), probs)

    def draws(self, probs: Sequence[float], n: int) -> NDArray[np.intp]:
        """Draw `n` indices independently from one law."""
        return self.run.source.choose_many(self.next(), probs, n)

    def seed(self) -> int:
        """A number of 63 bits that belongs to this place alone."""
        return self.run.source.seed(self.next())

    def call(self) -> Call:
        place = self.next()
        return Call(place, self.run.source.seed(place))

    def recorded(self, kind: str) -> Event | None:
        """What an earlier life of the run recorded of the call that comes next here: it is not bought again."""
        return self.run.trace.recorded((*self.path, self._tick + 1), kind)

    def fork(self, n: int) -> list[Scope]:
        """`n` child places."""
        here = self.next()
        return [Scope(self.run, self.account.child(), (*here, i), self) for i in range(n)]

    @contextmanager
    def inside(self) -> Iterator[Scope]:
        """One child place. The chain goes on from its end, however it ends."""
        (place,) = self.fork(1)
        try:
            yield place
        finally:
            self.account.join([place.account])

    def keep(self, population: Sequence[Any]) -> None:
        """Publish a population to answer from, should the budget end before the method does."""
        self.kept = population

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Record a decision of an operator, unless an earlier life of the run has."""
        place = self.next()
        if self.run.trace.recorded(place, kind) is None:
            self.run.trace.note(Event(place, kind, self.run.clock.now(), ZERO, data))

    def cost(self) -> Cost:
        """What was spent at this place and below. Seconds are the run's clock."""
        return self.account.cost._replace(seconds=self.run.clock.now())

    @contextmanager
    def timed(self, until: float | None = None) -> Iterator[anyio.CancelScope]:
        """Cancel what runs inside when the clock shows `until` (default: the end of the run)."""
        clock, before = self.run.clock, self.over
        earlier = self.run.trace.recorded(self.path, "over")
        self.over = earlier or before
        until = earlier.start if earlier else self.run.seconds if until is None else until
        with anyio.move_on_after(until - clock.now()) as cancel:
            clock.deadlines.add(cancel)
            try:
                yield cancel
            finally:
                clock.deadlines.discard(cancel)
                self.over = before
        if cancel.cancelled_caught:
            self.run.trace.note(Event(self.path, "over", clock.now()))

    def aside(self) -> AbstractContextManager[Scope]:
        """A child place without limits of its own, for work that is no answer: what is kept there nobody reads."""
        return self.limit(Budget())

    @contextmanager
    def limit(self, budget: Budget) -> Iterator[Scope]:
        """A child place with limits of its own. Raises BudgetEnded when its seconds are over."""
        here = self.next()
        child = Scope(self.run, self.account.child(budget.limits), here, self)
        seconds = budget.limits.get("seconds", math.inf)
        with child.timed(self.run.clock.now() + seconds) as cancel:
            try:
                yield child
            finally:
                self.account.join([child.account])
        if cancel.cancelled_caught:
            raise BudgetEnded(f"the budget of {seconds:g} seconds is over")
