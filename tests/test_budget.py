"""No limit is ever overrun, nothing stays reserved, the ledger is the model's own count, no schedule matters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from forethought.core.budget import ENTRIES, Account, Budget, amount
from forethought.core.cost import ZERO, Cost
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.operators import each
from forethought.core.population import Particle
from forethought.core.scope import Run, Scope, Seeded
from forethought.core.trace import Event, MemoryTrace
from tests.scripted import (
    Best,
    Every,
    Extend,
    Fork,
    Merge,
    Node,
    Pop,
    Race,
    Redraw,
    Step,
    Then,
    Unbounded,
    Weigh,
    Within,
    World,
)

pytestmark = pytest.mark.anyio

# Budgets and accounts alone


def test_a_budget_is_read_and_written() -> None:
    budget = Budget.parse(" tokens=2000, seconds = 10,usd=0.125 ")
    assert budget.limits == {"tokens": 2000, "seconds": 10, "usd": 0.125}
    assert str(budget) == "tokens=2000,seconds=10,usd=0.125"
    assert Budget.parse("none").limits == {}


AMOUNTS = st.integers(0, 10**12).map(float) | st.decimals(0, 100, places=4).map(float)


@given(st.dictionaries(st.sampled_from(ENTRIES), AMOUNTS))
def test_what_is_written_reads_the_same(limits: dict[str, float]) -> None:
    assert Budget.parse(str(Budget(limits))).limits == limits


@pytest.mark.parametrize(("text", "complaint"), [
    ("tokens", "cannot read the budget 'tokens'"),
    ("tokens=many", "cannot read the budget 'tokens=many'"),
    ("tokens=1=2", "cannot read the budget"),
    ("token=5", "no budget entry 'token'; did you mean 'tokens'?"),
    ("=5", "no budget entry ''; there are tokens, calls"),
    ("tokens=-1", "at least 0, not -1"),
    ("", "the budget is empty: write it as tokens=2000"),
    (" , ", "the budget is empty"),
    ("tokens=1,tokens=2", "the budget 'tokens=1,tokens=2' names tokens twice"),
    ("seconds=nan", "at least 0, not nan"),
])  # fmt: skip
def test_a_senseless_budget_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


def test_only_clocks_and_prices_make_a_budget_inexact() -> None:
    assert Budget.parse("tokens=1,critical_tokens=1,kv_reads=1").exact
    assert not Budget.parse("tokens=1,seconds=1").exact
    assert not Budget.parse("usd=1").exact


def test_tokens_are_new_and_verifier_tokens() -> None:
    account = Account(None, {"tokens": 10})
    assert account.fits(Cost(new_tokens=4, verifier_tokens=6, prompt_tokens=1000))
    assert not account.fits(Cost(new_tokens=5, verifier_tokens=6))


COSTS = st.lists(st.integers(0, 10**9), min_size=len(Cost._fields), max_size=len(Cost._fields)).map(lambda n: Cost(*n))


@given(COSTS, COSTS)
def test_costs_add_entry_by_entry_and_side_by_side_the_longest_chain_counts(a: Cost, b: Cost) -> None:
    assert a + b == Cost(*(x + y for x, y in zip(a, b, strict=True)))
    assert a + b - b == a
    chain, seconds = max(a.critical_tokens, b.critical_tokens), max(a.seconds, b.seconds)
    assert a.beside(b) == (a + b)._replace(critical_tokens=chain, seconds=seconds)


def test_what_is_spent_is_spent_all_around() -> None:
    outer = Account(None, {"calls": 3})
    inner = outer.child({"tokens": 5})
    need = Cost(calls=1, new_tokens=5)
    inner.reserve(need)
    assert outer.held == inner.held == need
    assert not inner.fits(Cost(new_tokens=1))
    inner.charge(Cost(calls=1, new_tokens=2), need)
    assert outer.held == inner.held == ZERO
    assert outer.spent == inner.spent == Cost(calls=1, new_tokens=2)
    assert inner.fits(Cost(calls=2, new_tokens=3))
    assert not inner.fits(Cost(calls=3))


def test_a_grant_holds_its_allowance_until_it_is_settled() -> None:
    outer = Account(None, {"tokens": 10})
    one, two = outer.child(), outer.child()
    one.grant(Cost(new_tokens=6))
    two.grant(Cost(new_tokens=4))
    assert not outer.fits(Cost(new_tokens=1))
    need = Cost(new_tokens=5)
    assert one.fits(need)
    assert not two.fits(need)
    one.reserve(need)
    one.charge(Cost(new_tokens=3), need)
    assert amount(outer.spent + outer.held, "tokens") == 10
    assert outer.spent == ZERO  # it is told when the grant closes
    one.settle()
    assert outer.spent == one.spent == Cost(new_tokens=3)
    assert outer.fits(Cost(new_tokens=3))
    assert not outer.fits(Cost(new_tokens=4))
    two.settle()
    two.settle()
    assert outer.held == ZERO


def test_a_grant_inside_a_grant() -> None:
    outer = Account(None, {"tokens": 10})
    middle = outer.child()
    middle.grant(Cost(new_tokens=8))
    inner = middle.child()
    inner.grant(Cost(new_tokens=5))
    assert not middle.fits(Cost(new_tokens=4))
    inner.reserve(Cost(new_tokens=4))
    inner.charge(Cost(new_tokens=4), Cost(new_tokens=4))
    inner.settle()
    assert middle.fits(Cost(new_tokens=4))
    assert amount(outer.spent + outer.held, "tokens") == 8
    middle.settle()
    assert (outer.spent, outer.held) == (Cost(new_tokens=4), ZERO)


def test_a_chain_is_limited_along_its_longest_branch() -> None:
    outer = Account(None, {"critical_tokens": 10})
    outer.charge(Cost(critical_tokens=3))
    one, two = outer.child(), outer.child({"critical_tokens": 5})
    one.charge(Cost(critical_tokens=6))
    two.charge(Cost(critical_tokens=4))
    assert one.fits(Cost(critical_tokens=1))
    assert not one.fits(Cost(critical_tokens=2))
    assert not two.fits(Cost(critical_tokens=2))
    outer.join([one, two])
    assert outer.cost.critical_tokens == 9
    assert (one.cost.critical_tokens, two.cost.critical_tokens) == (6, 4)


# Admission


@dataclass
class Fixed:
    """A kernel that may use `most` tokens, uses `tokens`, and writes down with whom it started."""

    most: int
    tokens: int
    log: list[tuple[int, str]]
    running: int = 0

    def bound(self, particle: Particle[str]) -> Cost:
        return Cost(calls=1, new_tokens=self.most, critical_tokens=self.most)

    async def __call__(self, particle: Particle[str], at: Scope) -> Particle[str]:
        bounds = [Cost(calls=1, new_tokens=k, critical_tokens=k) for k in range(self.most, 0, -1)]
        need = next(filter(at.account.fits, bounds), ZERO)
        if need is ZERO:
            raise BudgetEnded("no room")
        at.account.reserve(need)
        self.running += 1
        await pass_by()
        self.log.append((self.running, f"{particle.state}{need.new_tokens}"))
        await pass_by()
        self.running -= 1
        used = min(self.tokens, need.new_tokens)
        at.account.charge(Cost(calls=1, new_tokens=used, critical_tokens=used), need)
        return particle.moved(f"{particle.state}{used}")


async def pass_by() -> None:
    """Let all others that are running come as far."""
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


async def admitted(budget: str, most: int, tokens: int, names: str) -> tuple[list[tuple[int, str]], str, str]:
    at, kernel = Scope.root(None, Budget.parse(budget)), Fixed(most, tokens, [])
    try:
        pop, ended = await each([Particle(name) for name in names], kernel, at), "done"
    except BudgetEnded as error:
        pop, ended = list(at.kept or []), str(error)
    assert at.account.held == ZERO
    return sorted(kernel.log), " ".join(p.state for p in pop), ended


async def test_waves_are_as_wide_as_the_full_bounds_allow_and_what_they_leave_comes_back() -> None:
    log, pop, ended = await admitted("tokens=30", most=10, tokens=4, names="abcdefg")
    # 30 fit three; they leave 18, which fits one at its full bound; that leaves 14: one; 10: one; 6: a lone one, cut
    assert log == [(1, "d10"), (1, "e10"), (1, "f10"), (1, "g6"), (3, "a10"), (3, "b10"), (3, "c10")]
    assert (pop, ended) == ("a4 b4 c4 d4 e4 f4 g4", "done")


async def test_only_a_lone_request_is_clamped() -> None:
    log, pop, ended = await admitted("tokens=25", most=10, tokens=10, names="abc")
    assert log == [(1, "c5"), (2, "a10"), (2, "b10")]
    assert (pop, ended) == ("a10 b10 c5", "done")


async def test_what_does_not_fit_is_refused_and_the_partial_population_kept() -> None:
    log, pop, ended = await admitted("tokens=20", most=10, tokens=10, names="abcd")
    assert log == [(2, "a10"), (2, "b10")]
    assert (pop, ended) == ("a10 b10 c d", "the budget let 2 of 4 particles move")


async def test_calls_shape_waves_as_tokens_do() -> None:
    log, pop, ended = await admitted("calls=3", most=10, tokens=1, names="abcd")
    assert [wide for wide, _ in log] == [3, 3, 3]
    assert (pop, ended) == ("a1 b1 c1 d", "the budget let 3 of 4 particles move")


async def test_chains_do_not_add_up_over_a_wave() -> None:
    log, pop, ended = await admitted("critical_tokens=10", most=10, tokens=10, names="abcd")
    assert [wide for wide, _ in log] == [4] * 4
    assert (pop, ended) == ("a10 b10 c10 d10", "done")


async def test_without_limits_all_start_at_once() -> None:
    log, _, _ = await admitted("seconds=60", most=10, tokens=10, names="abcdefghij")
    assert [wide for wide, _ in log] == [10] * 10


async def test_a_kernel_that_cannot_tell_its_bound_moves_one_after_another() -> None:
    kernel = Fixed(10, 10, [])
    at = Scope.root(None, Budget({"tokens": 35}))
    await each([Particle(name) for name in "abcd"], Unbounded(kernel), at)
    assert kernel.log == [(1, "a10"), (1, "b10"), (1, "c10"), (1, "d5")]


async def test_prices_that_are_no_powers_of_two_leave_next_to_nothing_reserved() -> None:
    class Priced(Fixed):
        def bound(self, particle: Particle[str]) -> Cost:
            return Cost(calls=1, usd=0.1)

        async def __call__(self, particle: Particle[str], at: Scope) -> Particle[str]:
            at.account.reserve(need := Cost(calls=1, usd=0.1))
            await anyio.lowlevel.checkpoint()
            at.account.charge(Cost(calls=1, usd=0.07), need)
            return particle

    at = Scope.root(None, Budget({"usd": 5.0}))
    await each([Particle(str(i)) for i in range(60)], Priced(1, 1, []), at)
    assert at.account.held.usd == pytest.approx(0, abs=1e-12)
    assert at.account.spent.usd == pytest.approx(4.2)


# Time


async def for_ever(world: World, n: int, at: Scope) -> NoReturn:
    pop = [Particle("")] * n
    while True:
        pop = await each(pop, Extend(world, 10), at)
        await anyio.lowlevel.checkpoint()


async def test_a_limit_on_seconds_cancels_what_is_in_flight_and_charges_what_it_told() -> None:
    world = World(random.Random(0), pace=0.004)
    at = Scope.root(None, Budget({"tokens": 1000}))
    with pytest.raises(BudgetEnded, match=r"0\.02 seconds is over"), at.limit(Budget({"seconds": 0.02})) as inner:
        await for_ever(world, 4, inner)
    assert at.account.spent._replace(seconds=0.0) == world.did
    assert at.account.held._replace(seconds=0.0) == ZERO
    assert inner.kept is not None
    assert len(inner.kept) == 4


async def test_a_call_that_told_nothing_is_charged_its_reservation_when_time_is_over() -> None:
    world = World(random.Random(0), streams=False, pace=0.01)
    at = Scope.root()
    with pytest.raises(BudgetEnded), at.limit(Budget({"seconds": 0.005})) as inner:
        await each([Particle("")], Extend(world, 50), inner)
    assert isinstance(at.run.trace, MemoryTrace)
    (event,) = [e for e in at.run.trace.events if e.kind == "sample cancelled"]
    assert event.data["estimated"] is True
    assert event.cost.new_tokens == at.account.spent.new_tokens == 50


async def test_time_over_is_replayed_and_not_decided_again() -> None:
    async def program(run: Run, world: World) -> tuple[list[str], Cost]:
        at = Scope.root(run)
        try:
            with at.limit(Budget({"seconds": 0.03})) as inner:
                await for_ever(world, 3, inner)
        except BudgetEnded:
            return [p.state for p in inner.kept or []], at.account.cost._replace(seconds=0.0)

    trace = MemoryTrace()
    made = await program(Run(trace=trace), World(random.Random(1), pace=0.002))
    replay = Run(trace=MemoryTrace(trace.events))
    assert await program(replay, World(random.Random(2))) == made  # a model that is quick now finishes no more
    assert replay.physical_calls == 0


async def test_a_replay_does_not_wait_until_the_time_is_over_again() -> None:
    run = Run(trace=MemoryTrace([Event((1,), "over", 1000.0)]))
    with anyio.fail_after(5), pytest.raises(BudgetEnded), Scope.root(run).limit(Budget({"seconds": 1000})) as inner:
        await for_ever(World(random.Random(1)), 3, inner)
    assert run.clock.now() >= 1000
    assert run.physical_calls == 0


# Random programs

SCHEMES = st.sampled_from(["systematic", "stratified", "multinomial", "residual", "optimal"])
BUDGETS = st.dictionaries(
    st.sampled_from(["tokens", "new_tokens", "calls", "verifier_calls", "verifier_tokens", "critical_tokens", "usd",
                     "prompt_tokens", "cached_tokens", "kv_reads", "flops"]),
    st.integers(0, 40) | st.integers(0, 300), max_size=3,
).map(lambda limits: Budget({name: k / 4 if name == "usd" else k for name, k in limits.items()}))  # fmt: skip
SECONDS = st.integers(0, 60).map(lambda k: Budget({"seconds": k / 10 + 0.05}))
LEAVES: st.SearchStrategy[Node] = st.one_of(
    st.builds(Step, st.integers(1, 9), st.booleans()),
    st.builds(Step, st.integers(1, 9), st.booleans()),
    st.builds(Weigh, st.booleans()),
    st.builds(Fork, st.integers(1, 3)),
    st.builds(Best, st.integers(1, 3)),
    st.builds(Redraw, st.integers(1, 4), SCHEMES),
    st.builds(Race, st.integers(1, 3), st.integers(1, 9)),
    st.builds(Merge),
)


def programs(budgets: st.SearchStrategy[Budget]) -> st.SearchStrategy[Node]:
    def larger(smaller: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        sequence = st.lists(smaller, min_size=2, max_size=4).map(lambda parts: Then(tuple(parts)))
        return st.one_of(sequence, sequence, st.builds(Every, smaller), st.builds(Within, budgets, smaller))

    tree = st.recursive(LEAVES, larger, max_leaves=12)
    return tree.map(lambda body: Then((Step(3), Fork(4), Step(4), body, Fork(2), Step(6), Weigh(), body)))


@dataclass
class Outcome:
    texts: list[tuple[str, float, bool]]
    stopped: bool
    cost: Cost
    dropped: int
    decisions: list[tuple[Any, ...]]

    def __post_init__(self) -> None:
        self.cost = self.cost._replace(seconds=0.0)


@dataclass
class Execution:
    """One run of a random program, and what it left behind."""

    program: Node
    budget: Budget
    seed: int
    failing: int = 0
    streams: bool = True
    pace: float = 0.0
    ordered: bool = True

    def run(self, backend: str, noise: int, earlier: list[Event] | None = None) -> tuple[Outcome, Run, World]:
        options: dict[str, Any] = {}
        if self.pace:
            assert backend == "trio"
            options["clock"] = trio.testing.MockClock(autojump_threshold=0)
        return anyio.run(self._main, noise, earlier or [], backend=backend, backend_options=options)

    async def _main(self, noise: int, earlier: list[Event]) -> tuple[Outcome, Run, World]:
        trace = MemoryTrace(earlier)
        run = Run(Seeded(self.seed), trace, failures="drop", ordered=self.ordered)
        run.seconds = self.budget.limits.get("seconds", math.inf)
        world = World(random.Random(noise), self.streams, self.failing, self.pace)
        root = Scope.root(run, self.budget)
        world.accounts.append((root.account, self.budget))
        pop, stopped = await self._answer(root, world)
        world.check()
        for account, _ in world.accounts:
            assert account.held._replace(seconds=0.0) == ZERO
        if not earlier:
            assert root.account.spent._replace(seconds=0.0) == world.did
        assert run.clock.now() <= run.seconds + 1e-6
        texts = [(p.state, p.logw, p.done) for p in pop]
        return Outcome(texts, stopped, root.account.cost, run.dropped, decisions(trace.events)), run, world

    async def _answer(self, root: Scope, world: World) -> tuple[Pop, bool]:
        try:
            with root.timed():
                return await self.program.run([Particle("")], root, world), False
        except BudgetEnded:
            pass
        return list(root.kept or []), True


def decisions(events: list[Event]) -> list[tuple[Any, ...]]:
    """A trace without its times and its order."""
    return sorted(
        (
            event.place,
            event.kind,
            event.cost._replace(seconds=0.0),
            sorted((k, timeless(v)) for k, v in event.data.items()),
        )
        for event in events
    )


def timeless(value: Any) -> Any:
    """What data says, without the seconds in a list of costs."""
    if isinstance(value, list):
        return repr([v._replace(seconds=0.0) if isinstance(v, Cost) else v for v in value])
    return repr(value)


def cases(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))


def check_schedules(execution: Execution, noise: tuple[int, int], cut: float) -> None:
    """Neither the schedule nor the library under it changes a result, nor does a life cut off anywhere and taken up."""
    outcome, run, _ = execution.run("asyncio", noise[0])
    other, _, _ = execution.run("trio", noise[1])
    assert other == outcome
    assert isinstance(run.trace, MemoryTrace)
    earlier = run.trace.events[: round(cut * len(run.trace.events))]
    resumed, again, _ = execution.run("asyncio" if noise[0] % 2 else "trio", noise[1], earlier)
    assert (resumed.texts, resumed.stopped, resumed.cost) == (outcome.texts, outcome.stopped, outcome.cost)
    assert resumed.dropped == outcome.dropped
    recorded = sum(e.kind in CALLS for e in earlier)
    assert again.physical_calls == run.physical_calls - recorded
    assert {e.place for e in run.trace.events if e.kind in CALLS} >= set(again.again)


CALLS = ("sample", "grade", "sample failed", "grade failed")
EXECUTIONS = st.builds(
    Execution,
    programs(BUDGETS),
    BUDGETS,
    st.integers(0, 10**6),
    failing=st.sampled_from([0, 0, 3, 8]),
    streams=st.booleans(),
)
NOISE = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))
TIMED = st.builds(
    Execution,
    programs(BUDGETS | SECONDS),
    st.builds(lambda b, s: Budget({**b.limits, **s.limits}), BUDGETS, SECONDS),
    st.integers(0, 10**6),
    failing=st.sampled_from([0, 0, 3, 8]),
    streams=st.booleans(),
    pace=st.sampled_from([0.01, 0.1]),
    ordered=st.sampled_from([False, False, True]),
)


def check_time(execution: Execution, noise: int, cut: float) -> None:
    """With deadlines and races by arrival: no limit is overrun, and a replay decides nothing again and calls nobody.

    A life that was cut off may be taken up differently, but no limit is overrun in it either.
    """
    outcome, run, _ = execution.run("trio", noise)
    assert isinstance(run.trace, MemoryTrace)
    replayed, again, _ = execution.run("trio", noise + 1, run.trace.events)
    assert again.physical_calls == 0
    assert (replayed.texts, replayed.stopped, replayed.cost) == (outcome.texts, outcome.stopped, outcome.cost)
    execution.run("trio", noise + 2, run.trace.events[: round(cut * len(run.trace.events))])


@cases(50)
@given(EXECUTIONS, NOISE, st.floats(0, 1))
def test_random_programs(execution: Execution, noise: tuple[int, int], cut: float) -> None:
    check_schedules(execution, noise, cut)


@pytest.mark.slow
@cases(1000)
@given(EXECUTIONS, NOISE, st.floats(0, 1))
def test_many_random_programs(execution: Execution, noise: tuple[int, int], cut: float) -> None:
    check_schedules(execution, noise, cut)


RACES = Then((Step(3), Fork(4), Step(4), Every(Race(1, 1))))  # one is over when time is, behind three that are not


@cases(50)
@example(Execution(RACES, Budget({"seconds": 1.75}), 2, streams=False, pace=0.1, ordered=False), 0, 0.0)
@given(TIMED, st.integers(0, 10**6), st.floats(0, 1))
def test_random_programs_against_the_clock(execution: Execution, noise: int, cut: float) -> None:
    check_time(execution, noise, cut)


@pytest.mark.slow
@cases(1000)
@given(TIMED, st.integers(0, 10**6), st.floats(0, 1))
def test_many_random_programs_against_the_clock(execution: Execution, noise: int, cut: float) -> None:
    check_time(execution, noise, cut)
