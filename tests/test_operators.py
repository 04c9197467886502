"""What each operator promises besides its law: order, failure, cancellation, partial results."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from forethought.core.budget import Budget
from forethought.core.call import bought
from forethought.core.cost import Cost
from forethought.core.errors import BudgetEnded, ModelError
from forethought.core.fanout import Kernel
from forethought.core.operators import branch, each, merge, prune, race
from forethought.core.population import Particle, Population, log_evidence
from forethought.core.scope import Call, Run, Scope
from forethought.core.trace import Event, MemoryTrace
from tests.scripted import Extend, World, from_json, to_json

pytestmark = pytest.mark.anyio
Move = Kernel[str]


def particles(*states: str) -> list[Particle[str]]:
    return [Particle(s) for s in states]


def states(pop: Population[str]) -> list[str]:
    return [p.state for p in pop]


def kinds(at: Scope, kind: str) -> list[Event]:
    assert isinstance(at.run.trace, MemoryTrace)
    return [event for event in at.run.trace.events if event.kind == kind]


def paid(act: Callable[[str, Call], Awaitable[int]], most: int = 10) -> Move:
    """A kernel that makes one call of as many critical tokens as `act` returns."""

    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        async def run(call: Call) -> tuple[str, Cost]:
            tokens = await act(particle.state, call)
            return "!", Cost(calls=1, new_tokens=tokens, critical_tokens=tokens)

        bound = Cost(calls=1, new_tokens=most, critical_tokens=most)
        return particle.moved(particle.state + await bought(at, "sample", {}, lambda: bound, run, to_json, from_json))

    return kernel


# branch, prune, merge


def test_branch_shares_the_weight() -> None:
    pop = [Particle("a", 1.0), Particle("b", 2.0, done=True), Particle("c", -math.inf)]
    split = branch(pop, [2, 1, 3])
    assert states(split) == ["a", "a", "b", "c", "c", "c"]
    assert [p.logw for p in split] == [1 - math.log(2)] * 2 + [2.0] + [-math.inf] * 3
    assert [p.done for p in split] == [False, False, True, False, False, False]
    assert log_evidence(split) == pytest.approx(log_evidence(pop))


def test_branch_into_none_drops_the_mass() -> None:
    assert states(branch(particles("a", "b"), [0, 1])) == ["b"]


def test_branch_needs_a_number_for_each() -> None:
    with pytest.raises(ValueError):
        branch(particles("a", "b"), [1])


def test_prune_keeps_the_best_and_ties_go_to_the_lower_index() -> None:
    pop = particles("b1", "a1", "b2", "c1", "b3")
    assert states(prune(pop, 3, key=lambda p: float(ord(p.state[0])))) == ["c1", "b1", "b2"]
    assert states(prune(pop, 9, key=lambda p: 0.0)) == states(pop)


async def join(pop: Population[str], at: Scope) -> str:
    await anyio.lowlevel.checkpoint()
    return "+".join(states(pop))


async def test_merge_carries_the_whole_mass() -> None:
    pop = [Particle("a", 0.5), Particle("b", -1.0), Particle("dead", -math.inf)]
    merged = await merge(pop, join, Scope.root())
    assert merged.state == "a+b+dead"
    assert merged.logw == pytest.approx(math.log(math.exp(0.5) + math.exp(-1.0)))


async def test_there_is_nothing_to_merge_in_an_empty_population() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        await merge([], join, Scope.root())


async def test_a_merge_that_does_not_fit_keeps_its_parts() -> None:
    async def fuse(pop: Population[str], at: Scope) -> str:
        raise BudgetEnded("no room")

    at, pop = Scope.root(), particles("a", "b")
    with pytest.raises(BudgetEnded):
        await merge(pop, fuse, at)
    assert at.kept == pop


# each


async def test_each_skips_the_ended_and_keeps_the_order() -> None:
    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        for _ in range(5 - len(particle.state)):
            await anyio.lowlevel.checkpoint()
        return particle.moved(particle.state + "!", gain=1.0)

    pop = [Particle("aaa"), Particle("done", 0.0, True), Particle("b"), Particle("dead", -math.inf), Particle("cc")]
    moved = await each(pop, kernel, Scope.root())
    assert states(moved) == ["aaa!", "done", "b!", "dead", "cc!"]
    assert [p.logw for p in moved] == [1.0, 0.0, 1.0, -math.inf, 1.0]


async def test_each_of_nothing() -> None:
    at = Scope.root()
    assert await each([], paid_never, at) == []
    assert await each([Particle("x", 0.0, True)], paid_never, at) == [Particle("x", 0.0, True)]
    assert at.run.physical_calls == 0


async def paid_never(particle: Particle[str], at: Scope) -> Particle[str]:
    raise AssertionError("nobody moves")


async def test_each_moves_all_at_once_without_a_budget() -> None:
    waiting, all_here = 0, anyio.Event()

    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            all_here.set()
        await all_here.wait()
        return particle

    with anyio.fail_after(5):
        await each(particles(*"abcdefghijklmnopqrst"), kernel, Scope.root())


async def test_chains_take_the_longest_side_by_side_and_add_in_sequence() -> None:
    async def tokens(state: str, call: Call) -> int:
        return len(state)

    at = Scope.root()
    pop = await each(particles("a", "aaa", "aa"), paid(tokens), at)
    assert at.cost()._replace(seconds=0.0) == Cost(calls=3, new_tokens=6, critical_tokens=3)
    await each(pop, paid(tokens), at)
    assert at.cost()._replace(seconds=0.0) == Cost(calls=6, new_tokens=15, critical_tokens=7)


async def failing(state: str, call: Call) -> int:
    await anyio.lowlevel.checkpoint()
    if state.startswith("x"):
        call.progress(Cost(calls=1, new_tokens=2, critical_tokens=2))
        raise ModelError(f"{state} failed")
    return 1


async def test_failures_drop() -> None:
    at = Scope.root(Run(failures="drop"))
    assert states(await each(particles("a", "x1", "b", "x2"), paid(failing), at)) == ["a!", "b!"]
    assert at.run.dropped == 2
    dropped = sorted((event.place, event.data["error"]) for event in kinds(at, "dropped"))
    assert dropped == [((1, 1), "x1 failed"), ((1, 3), "x2 failed")]
    assert [e.cost.new_tokens for e in kinds(at, "sample failed")] == [2, 2]
    assert at.cost()._replace(seconds=0.0) == Cost(calls=4, new_tokens=6, critical_tokens=2)


async def test_the_policy_of_a_fan_out_goes_before_that_of_the_run() -> None:
    at = Scope.root(Run(failures="drop"))
    with pytest.raises(ModelError, match="x failed"):
        await each(particles("x"), paid(failing), at, failures="fail")
    at = Scope.root()
    assert await each(particles("x"), paid(failing), at, failures="drop") == []


async def test_a_failed_call_that_told_nothing_is_charged_its_reservation() -> None:
    async def silent(state: str, call: Call) -> int:
        raise ModelError("no answer")

    at = Scope.root(Run(failures="drop"), Budget({"tokens": 100}))
    await each(particles("a"), paid(silent, most=7), at)
    assert at.account.spent.new_tokens == 7
    assert kinds(at, "sample failed")[0].data["estimated"] is True


async def test_a_replayed_call_has_taken_as_long_as_it_took() -> None:
    earlier = Event((1, 0, 1), "sample", 100.0, Cost(calls=1, seconds=7.0), {"text": "!"})
    at = Scope.root(Run(trace=MemoryTrace([earlier])))
    assert states(await each(particles("a"), paid(failing), at)) == ["a!"]
    assert 107 <= at.cost().seconds < 108
    assert at.run.physical_calls == 0


async def test_a_recorded_failure_stays_one_only_where_failures_are_dropped() -> None:
    """Where they end a run, whoever resumes it wants the call to be tried again."""
    failed = Event((1, 0, 1), "sample failed", 1.0, Cost(calls=1), {"error": "x failed"})
    again = Scope.root(Run(trace=MemoryTrace([failed])))
    assert states(await each(particles("a"), paid(failing), again)) == ["a!"]
    assert again.run.physical_calls == 1
    dropped = Scope.root(Run(trace=MemoryTrace([failed]), failures="drop"))
    assert await each(particles("a"), paid(failing), dropped) == []
    assert dropped.run.physical_calls == 0


async def test_what_was_in_flight_is_asked_again_and_listed() -> None:
    first = Scope.root()
    made = await each(particles("a", "b"), paid(failing), first)
    assert first.run.again == []
    cut = MemoryTrace(e for e in first.run.trace.events if e.place != (1, 1, 1))  # type: ignore[attr-defined]
    second = Scope.root(Run(trace=cut))
    assert await each(particles("a", "b"), paid(failing), second) == made
    assert second.run.again == [(1, 1, 1)]
    assert [(e.place, e.data) for e in kinds(second, "sample")] == [((1, 1, 1), {"text": "!", "again": True})]


@pytest.mark.parametrize("failures", ["fail", "drop"])
@pytest.mark.parametrize("error", [ModelError("model"), ValueError("bug")])
async def test_an_error_surfaces_alone_and_cancels_its_siblings(failures: str, error: Exception) -> None:
    cancelled: list[str] = []

    async def act(state: str, call: Call) -> int:
        if state == "x":
            await anyio.sleep(0.005)
            raise error
        call.progress(Cost(calls=1, new_tokens=3, critical_tokens=3))
        try:
            await anyio.sleep(60)
        finally:
            cancelled.append(state)
        return 1

    if failures == "drop" and isinstance(error, ModelError):
        return  # that one is dropped
    at = Scope.root(None, Budget({"tokens": 100}))
    with anyio.fail_after(5), pytest.raises(type(error)) as caught:
        await each(particles("a", "x", "b"), paid_bounded(act), at, failures=failures)  # type: ignore[arg-type]
    assert caught.value is error
    assert sorted(cancelled) == ["a", "b"]
    assert at.account.spent.new_tokens == 3 + 3 + 10  # what they told, and the reservation of the one that told nothing
    assert at.account.held._replace(seconds=0.0) == Cost()
    assert len(kinds(at, "sample cancelled")) == 2 + (not isinstance(error, ModelError))
    assert states(list(at.kept or [])) == ["a", "x", "b"]


async def test_an_error_deep_inside_surfaces_alone() -> None:
    async def outer(particle: Particle[str], at: Scope) -> Particle[str]:
        return (await each([particle], paid(failing), at))[0]

    with pytest.raises(ModelError, match="x failed"):
        await each(particles("a", "x", "b"), outer, Scope.root())


async def test_each_inside_each() -> None:
    async def outer(particle: Particle[str], at: Scope) -> Particle[str]:
        grown = await each(branch([particle], [3]), paid(failing), at)
        return particle.moved("|".join(states(grown)))

    at = Scope.root(Run(failures="drop"))
    assert states(await each(particles("a", "b"), outer, at)) == ["a!|a!|a!", "b!|b!|b!"]
    assert {e.place for e in kinds(at, "sample")} == {(1, i, 1, k, 1) for i in range(2) for k in range(3)}
    assert at.cost().critical_tokens == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_is_not_swallowed(backend: str) -> None:
    async def interrupted(state: str, call: Call) -> int:
        await anyio.sleep(0.001 if state == "x" else 60)
        raise KeyboardInterrupt

    async def main() -> None:
        await each(particles("a", "x"), paid(interrupted), Scope.root(Run(failures="drop")))

    with pytest.raises((KeyboardInterrupt, BaseExceptionGroup)) as caught:
        anyio.run(main, backend=backend)
    error: BaseException = caught.value
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, KeyboardInterrupt)


async def test_cancelling_from_outside_keeps_what_has_moved() -> None:
    async def act(state: str, call: Call) -> int:
        await anyio.sleep(0 if state == "a" else 60)
        return 1

    at = Scope.root(None, Budget({"tokens": 100}))
    with anyio.move_on_after(0.2):
        await each(particles("a", "b"), paid_bounded(act), at)
    assert states(list(at.kept or [])) == ["a!", "b"]
    assert at.account.spent.new_tokens == 11
    assert at.account.held._replace(seconds=0.0) == Cost()


async def test_a_fan_out_cancelled_before_it_has_sent_anything_reserves_nothing() -> None:
    class Slow(MemoryTrace):
        async def write(self, event: Event) -> None:
            await anyio.sleep(60)

    at = Scope.root(Run(trace=Slow()), Budget({"tokens": 100}))
    with anyio.move_on_after(0.01):
        await each(particles("a", "b"), Extend(World(random.Random(0)), 5), at)
    assert at.account.held == Cost()
    assert at.account.spent == Cost()


async def test_who_was_refused_is_recorded_in_index_order() -> None:
    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        for _ in range(10 - 3 * ord(particle.state) % 7):
            await anyio.lowlevel.checkpoint()
        with at.limit(Budget({"calls": 0})) as inner:
            return await Extend(World(random.Random(0)), 3)(particle, inner)

    at = Scope.root()
    with pytest.raises(BudgetEnded, match="0 of 6"):
        await each(particles(*"abcdef"), kernel, at)
    assert [event.data["refused"] for event in kinds(at, "refused")] == [[0, 1, 2, 3, 4, 5]]


# race


async def test_an_ordered_race_is_won_by_critical_tokens_then_index() -> None:
    async def act(state: str, call: Call) -> int:
        await anyio.sleep(0.001 * (10 - len(state)))  # the longest chains arrive first
        return len(state)

    at = Scope.root()
    pop = [Particle("done", 0.0, True), *particles("aaaa", "bb", "ccc", "d", "ee")]
    assert states(await race(pop, paid(act), at, first=3)) == ["d!", "bb!", "ee!"]
    assert at.cost().new_tokens == 12  # the late ones are billed in full
    assert at.cost().critical_tokens == 4


@pytest.mark.parametrize("first", [0, 5])
async def test_a_race_that_nobody_or_everybody_wins(first: int) -> None:
    async def act(state: str, call: Call) -> int:
        return 1

    for ordered in (True, False):
        won = await race(particles("a", "b"), paid(act), Scope.root(Run(ordered=ordered)), first=first)
        assert len(won) == min(first, 2)


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_race_is_won_by_those_that_count(ordered: bool) -> None:
    at = Scope.root(Run(ordered=ordered))

    async def won(first: int, counts: Callable[[Particle[str]], bool]) -> list[str]:
        gone = [anyio.Event() for _ in range(4)]
        gone[0].set()

        async def act(state: str, call: Call) -> int:
            """One after another, the short ones first."""
            await gone[len(state) - 1].wait()
            gone[len(state)].set()
            return len(state)

        return states(await race(particles("a", "bb", "ccc"), paid(act), at, first=first, counts=counts))

    assert await won(1, lambda p: p.state != "a!") == ["bb!"]
    assert await won(2, lambda p: p.state == "ccc!") == ["ccc!"]
    assert at.cost().new_tokens >= 3


async def test_a_race_whose_field_the_budget_cut_says_so() -> None:
    async def act(state: str, call: Call) -> int:
        return len(state)

    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        if not at.account.fits(Cost(calls=1)):
            raise BudgetEnded("no room for a call")
        return await paid(act)(particle, at)

    for calls, short in ((2, True), (3, False)):
        at = Scope.root(Run(), Budget({"calls": calls}))
        won = await race(particles("bb", "aaa", "c"), kernel, at, first=1)
        assert (states(won), at.run.short) == (["bb!"] if short else ["c!"], short)


async def by_name(state: str, call: Call) -> int:
    call.progress(Cost(calls=1, new_tokens=2, critical_tokens=2))
    await anyio.sleep({"a": 60, "b": 0.15, "c": 0.01, "d": 60}[state])
    return 5


async def test_a_race_by_arrival_cancels_the_late_and_bills_what_they_told() -> None:
    at = Scope.root(Run(ordered=False), Budget({"tokens": 100}))
    with anyio.fail_after(5):
        assert states(await race(particles(*"abcd"), paid_bounded(by_name), at, first=2)) == ["c!", "b!"]
    assert at.cost()._replace(seconds=0.0) == Cost(calls=4, new_tokens=14, critical_tokens=5)
    assert at.account.held._replace(seconds=0.0) == Cost()
    (event,) = kinds(at, "race")
    assert event.data["winners"] == [2, 1]


def paid_bounded(act: Callable[[str, Call], Awaitable[int]], most: int = 10) -> Move:
    kernel = paid(act, most)

    class Bounded:
        def bound(self, particle: Particle[str]) -> Cost:
            return Cost(calls=1, new_tokens=most, critical_tokens=most)

        async def __call__(self, particle: Particle[str], at: Scope) -> Particle[str]:
            return await kernel(particle, at)

    return Bounded()


@pytest.mark.parametrize(("names", "places"), [("abcd", 2), ("bc", 3)])
async def test_a_race_replays_its_winners_in_their_order_without_a_call(names: str, places: int) -> None:
    first = Scope.root(Run(ordered=False), Budget({"tokens": 100}))
    won = await race(particles(*names), paid_bounded(by_name), first, first=places)
    assert states(won) == ["c!", "b!"]
    assert isinstance(first.run.trace, MemoryTrace)
    for _ in range(5):  # trio shuffles tasks
        again = Scope.root(Run(ordered=False, trace=MemoryTrace(first.run.trace.events)), Budget({"tokens": 100}))
        assert states(await race(particles(*names), paid_bounded(by_name), again, first=places)) == states(won)
        assert again.run.physical_calls == 0
        assert again.account.cost._replace(seconds=0.0) == first.account.cost._replace(seconds=0.0)


async def test_a_race_in_waves_replays_under_the_same_admission() -> None:
    """What the late ones used shaped what the winners were allowed, and must do so again."""

    async def act(state: str, call: Call) -> int:
        if state.startswith("x"):
            raise ModelError("lost")
        return 1

    def scope(trace: MemoryTrace) -> Scope:
        return Scope.root(Run(ordered=False, failures="drop", trace=trace), Budget({"tokens": 31}))

    pop = particles("a", "x1", "x2", "b")
    first = scope(MemoryTrace())
    won = await race(pop, paid_bounded(act), first, first=2)
    assert states(won) == ["a!", "b!"]
    assert isinstance(first.run.trace, MemoryTrace)
    again = scope(MemoryTrace(first.run.trace.events))
    assert await race(pop, paid_bounded(act), again, first=2) == won
    assert again.run.physical_calls == 0
    assert again.run.dropped == first.run.dropped == 2
    assert again.account.cost._replace(seconds=0.0) == first.account.cost._replace(seconds=0.0)


async def test_a_race_that_the_budget_ends_keeps_what_arrived() -> None:
    async def act(state: str, call: Call) -> int:
        return 10

    for ordered in (True, False):
        at = Scope.root(Run(ordered=ordered), Budget({"calls": 2}))
        with pytest.raises(BudgetEnded, match="2 of 4"):
            await race(particles(*"abcd"), Extend(World(random.Random(0)), 4), at, first=3)
        assert [len(s) > 1 for s in states(list(at.kept or []))] == [True, True, False, False]
        assert at.account.spent.calls == 2
