"""One fan-out: particles admitted in waves, moved concurrently, with one declared fate for each failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, runtime_checkable

import anyio

from forethought.core.cost import ZERO, Cost
from forethought.core.crew import FIRST, Crew
from forethought.core.errors import BudgetEnded, ModelError
from forethought.core.population import Particle, Population, S
from forethought.core.scope import Failures, Scope
from forethought.core.trace import Event


class Kernel(Protocol[S]):
    """Moves one particle: extends, grades, refines, retrieves, or any composition of these."""

    async def __call__(self, particle: Particle[S], at: Scope, /) -> Particle[S]: ...


@runtime_checkable
class Bounded(Protocol[S]):
    """A kernel that can tell beforehand the most that moving a particle costs.

    Under a budget, kernels that cannot tell are moved one after another.
    """

    def bound(self, particle: Particle[S], /) -> Cost: ...


class FanOut(Generic[S]):
    """The state of one `each` or `race`: `out` is the population as far as it has moved."""

    def __init__(
        self,
        pop: Population[S],
        move: Kernel[S],
        at: Scope,
        failures: Failures | None,
        first: int | None = None,
        counts: Callable[[Particle[S]], bool] = lambda particle: True,
    ) -> None:
        self.out = list(pop)
        self.places = at.fork(len(pop))
        self.refused: list[int] = []
        self.arrived: list[int] = []
        self._pop, self._move, self._at, self._first, self._counts = pop, move, at, first, counts
        self._failures = failures or at.run.failures
        self._live = [i for i, p in enumerate(pop) if not p.ended]
        self._dropped: set[int] = set()
        self._closed = False  # nothing more is admitted in this life
        self._error: Exception | None = None
        self._here = at.here
        self._refusal, self._race = (at.run.trace.recorded(self._here, kind) for kind in ("refused", "race"))
        self._unmoved = spent_before(self._refusal, "refused") | spent_before(self._race, "late")
        if at.over is not None:
            self._unmoved |= spent_before(at.run.trace.recorded(self._here, "left"), "left")

    async def move_all(self) -> None:
        """Move all that fit. An error of a kernel is raised alone, after its siblings are cancelled."""
        queue: Sequence[int] = self._live
        try:
            while queue and not self._closed and not self._won:
                wave = self._admit(queue)
                queue = queue[len(wave) :]
                await self._record_wave(wave)
                await self._run([i for i in wave if not self._stays(i)] if self._unmoved else wave)
        except BaseException:
            self._at.keep(self.result())
            raise
        finally:
            for place in self.places:
                place.account.settle()
            self._at.account.join([place.account for place in self.places])
        if self._closed:
            self.refused = sorted([*self.refused, *queue])
            self._note("refused", {"refused": self.refused, "spent": self._spent(self.refused)})
        if self._first is not None:
            self._record_race()

    def _stays(self, i: int) -> bool:
        """Whether an earlier life decided that particle i does not move. If so, charge what it had cost by then."""
        if i not in self._unmoved:
            return False
        place = self.places[i]
        place.account.charge(self._unmoved[i])
        if self._refusal is not None and i in self._refusal.data["refused"]:
            self.refused.append(i)
            self._closed = True
        if self._at.run.trace.recorded(place.path, "dropped") is not None:
            self._drop(i)
        return True

    def _spent(self, particles: Sequence[int]) -> list[Cost]:
        return [self.places[i].account.cost for i in particles]

    def _record_race(self) -> None:
        if self._race is not None:
            self.arrived = list(self._race.data["winners"])  # in the order of then, whatever order they replay in
        winners = self.arrived[: self._first]
        late = [i for i in self._live if i not in winners]
        self._note("race", {"winners": winners, "late": late, "spent": self._spent(late)})

    async def _record_wave(self, wave: Sequence[int]) -> None:
        """Before anything is sent: so a later life knows which calls may have been in flight."""
        place, trace = (*self._here, wave[0]), self._at.run.trace
        earlier = trace.recorded(place, "wave")
        for i in wave:
            self.places[i].resumed = earlier is not None
        if earlier is None:
            await trace.write(Event(place, "wave", self._at.run.clock.now(), ZERO, {"size": len(wave)}))

    def _note(self, kind: str, data: dict[str, object]) -> None:
        trace, clock = self._at.run.trace, self._at.run.clock
        earlier = trace.recorded(self._here, kind)
        if earlier is None:
            trace.note(Event(self._here, kind, clock.now(), ZERO, data))
        else:
            clock.advance(earlier.start)

    def result(self) -> list[Particle[S]]:
        """The population with every particle as far as it has moved, less those dropped."""
        return [p for i, p in enumerate(self.out) if i not in self._dropped]

    def refusal(self) -> BudgetEnded:
        moved = len(self._live) - len(self.refused)
        return BudgetEnded(f"the budget let {moved} of {len(self._live)} particles move")

    def by_chain(self) -> list[int]:
        """Those that have moved and count, by critical tokens, then by index."""
        chain = [place.account.chain - place.account.start for place in self.places]
        return sorted(self.arrived, key=lambda i: (chain[i], i))

    @property
    def _won(self) -> bool:
        return self._first is not None and len(self.arrived) >= self._first

    def _admit(self, queue: Sequence[int]) -> Sequence[int]:
        """The longest beginning of the queue that fits at its full bounds; a lone particle has to fit by itself."""
        account = self._at.account
        if not account.limited:
            return queue
        if not isinstance(self._move, Bounded):
            return queue[:1]
        wave = 0
        for i in queue:
            need = self._move.bound(self._pop[i])
            if not account.fits(need):
                break
            self.places[i].account.grant(need)
            wave += 1
        return queue[: max(wave, 1)]

    async def _run(self, wave: Sequence[int]) -> None:
        async with anyio.create_task_group() as tasks:
            crew = Crew(wave, lambda i: self._move_one(i, tasks.cancel_scope), tasks.cancel_scope)
            resumed = any(self.places[i].resumed for i in wave)
            try:  # what an earlier life has recorded is all taken over before the clock shows that its time was over
                await crew.hire(tasks.start_soon, len(wave) if resumed else FIRST)
            except anyio.get_cancelled_exc_class():
                self._leave(crew.queue)
                raise
        if self._error is not None:
            raise self._error

    def _leave(self, queue: Sequence[int]) -> None:
        """Those that had not begun when time was over do not in a later life either; where the run was stopped they do."""
        if queue and any(deadline.cancel_called for deadline in self._at.run.clock.deadlines):
            self._note("left", {"left": [*queue], "spent": self._spent(queue)})

    async def _move_one(self, i: int, siblings: anyio.CancelScope) -> None:
        place = self.places[i]
        try:
            self.out[i] = await self._move(self._pop[i], place)
            if self._counts(self.out[i]):
                self.arrived.append(i)
            if self._won:
                siblings.cancel()
        except BudgetEnded:
            self.refused.append(i)
            self._closed = True
        except Exception as error:  # noqa: BLE001 - not swallowed: dropped by the declared policy, or raised again by `_run`, alone
            if isinstance(error, ModelError) and self._failures == "drop":
                self._drop(i)
                self._at.run.trace.note(
                    Event(place.path, "dropped", self._at.run.clock.now(), ZERO, {"error": str(error)})
                )
            else:
                self._error = self._error or error
                siblings.cancel()
        finally:
            place.account.settle()

    def _drop(self, i: int) -> None:
        self._dropped.add(i)
        self._at.run.dropped += 1


def spent_before(decision: Event | None, which: str) -> dict[int, Cost]:
    """The particles that an earlier life's decision kept from moving, and what each had cost by then."""
    if decision is None:
        return {}
    return {i: Cost(*cost) for i, cost in zip(decision.data[which], decision.data["spent"], strict=True)}
