"""Particle methods: exact transition matrices of those declared invariant, exact variances, degenerate identities, resuming."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import ROOT, UNKNOWN, Draft, Grade
from forethought.core.errors import BudgetEnded, ForethoughtError, ModelError, UsageError
from forethought.core.operators import each
from forethought.core.population import Particle, Population, ess, log_evidence, posterior
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded, Source
from forethought.core.trace import Event, MemoryTrace, Path
from forethought.methods import By, methods
from forethought.methods.entropic_particle_filter import entropic
from forethought.methods.metropolis_hastings import Rewrite
from forethought.methods.parallel_tempering import Chain, exchanged, swept
from forethought.methods.particle_gibbs import Sweep, drawn
from forethought.methods.protocol import Method
from forethought.methods.steer import potentials
from forethought.methods.weigh import annealed, log_odds
from forethought.models.protocol import Completion, Request
from forethought.tasks.protocol import Task
from tests.toy import (
    PROBLEM,
    TableVerifier,
    ToyModel,
    ToyTask,
    expected_measure,
    model_times_odds,
    outcomes,
    table,
    texts,
    toy_by,
)

pytestmark = pytest.mark.anyio

Matrix = NDArray[np.float64]


class Indifferent(TableVerifier):
    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Any]:
        _, cost = await super().grade(draft, problem, task, call)
        return Grade(0.7), cost


def graded(text: str, values: Sequence[float] | None = None) -> Draft:
    """A draft of the toy world, a step a token, as a method would have left it; with other grades than the table's if told."""
    draft = ROOT
    for i, token in enumerate(text):
        grades = MappingProxyType({"table": Grade(table(text[: i + 1]) if values is None else values[i])})
        draft = Draft(draft, token, size=i + 1, finish="end" if token == "." else None, grades=grades)
    return draft


def place(source: Source) -> Scope:
    return Scope.root(Run(source=source))


async def matrix(states: Sequence[Any], move: Callable[[Any, Source], Awaitable[Any]]) -> Matrix:
    """The exact chances of going from each state to each."""
    chances = np.zeros((len(states), len(states)))
    for i, state in enumerate(states):
        async for chance, found in outcomes(lambda source, state=state: move(state, source)):  # type: ignore[misc]
            chances[i, states.index(found)] += chance
    return chances


def check_invariant(chances: Matrix, weights: Sequence[float], *, reversible: bool = True) -> None:
    law = np.array(weights) / math.fsum(weights)
    assert chances.sum(axis=1) == pytest.approx(np.ones(len(law)))
    assert law @ chances == pytest.approx(law, rel=1e-9)
    if reversible:
        flow = law[:, None] * chances
        assert flow == pytest.approx(flow.T, rel=1e-9)
    assert (np.linalg.matrix_power(chances, 2) > 0).all()  # it gets everywhere


# invariant: exact transition matrices


def test_every_method_that_is_declared_invariant_has_its_matrix_here() -> None:
    declared = {name for name in methods if methods.parse(name).law == "invariant"}
    assert declared == {"particle-gibbs", "metropolis-hastings", "parallel-tempering"}


async def swept_once(sweep: Sweep, text: str, at: Scope) -> str:
    return drawn(await sweep(graded(text), at), at).text


@pytest.mark.parametrize(
    ("n", "temper", "deepest"), [(2, 1.5, 2), pytest.param(3, 1.0, 1, marks=pytest.mark.slow), (2, 0.5, 1)]
)
async def test_a_sweep_of_particle_gibbs_keeps_its_target(n: int, temper: float, deepest: int) -> None:
    target = model_times_odds(temper, deepest)

    async def move(text: str, source: Source) -> str:
        return await swept_once(Sweep(PROBLEM, toy_by(source, deepest), n, temper, 1.0), text, place(source))

    check_invariant(await matrix(list(target), move), list(target.values()))


State = tuple[str, tuple[float, ...]]  # a text, and the grades of its beginnings


class Random(TableVerifier):
    """Grades two texts at random, each call anew."""

    GRADES: ClassVar[dict[str, tuple[float, ...]]] = {"a": (0.2, 0.8), "a.": (0.1, 0.95)}

    def __init__(self, source: Source) -> None:
        self.source = source

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        grades = self.GRADES.get(draft.text, (0.5,))
        chosen = self.source.choose((*call.place, 7), [1 / len(grades)] * len(grades)) if len(grades) > 1 else 0
        return Grade(grades[chosen]), Cost(verifier_calls=1, verifier_tokens=1)


def odds(grade: float) -> float:
    return grade / (1 - grade)


@pytest.mark.parametrize("n", [2, 3])
async def test_a_sweep_keeps_its_target_where_grades_are_random(n: int) -> None:
    """Steps that are shared are shared with the reference as well."""
    chances, target = texts(1), dict[State, float]()
    for text, chance in chances.items():
        graded_as = [Random.GRADES.get(text[: i + 1], (0.5,)) for i in range(len(text))]
        for grades in itertools.product(*graded_as):
            target[text, grades] = chance * odds(grades[-1]) / math.prod(map(len, graded_as))

    async def move(state: State, source: Source) -> State:
        at = place(source)
        sweep = Sweep(PROBLEM, By(ToyModel(source, 1), ToyTask(), Random(source)), n, 1.0, 1.0)
        found = drawn(await sweep(graded(*state), at), at)
        assert found is not None
        return found.text, tuple(d.grades["table"].value or 0.0 for d in [*found.lineage()][-2::-1])

    check_invariant(await matrix(list(target), move), list(target.values()), reversible=False)


@pytest.mark.parametrize("spelling", [
    "particle-filter(n=2, ess=1.0)", "particle-filter(n=2, ess=1.0, resampling=multinomial, temper=2.0)",
    "entropic-particle-filter(n=2)", "entropic-particle-filter(n=2, look_ahead=True)",
])  # fmt: skip
async def test_the_expected_measure_where_grades_are_random(spelling: str) -> None:
    """Equal steps have one grade, and weigh on average what they would weigh with a grade each."""
    found: dict[str, float] = defaultdict(float)

    async def run(source: Source) -> Population[Draft]:
        by = By(ToyModel(source, 1), ToyTask(), Random(source))
        return await methods.parse(spelling)(PROBLEM, by, place(source))

    async for chance, pop in outcomes(run):
        for p in pop:
            found[p.state.text] += chance * math.exp(p.logw)
    mean = {text: sum(map(odds, grades)) / 2 for text, grades in Random.GRADES.items()}
    assert found == pytest.approx({text: chance * mean.get(text, 1.0) for text, chance in texts(1).items()})


async def test_a_sweep_of_one_particle_stays() -> None:
    for text in texts():
        pop = await Sweep(PROBLEM, toy_by(Seeded(0)), 1, 1.0, 1.0)(graded(text), place(Seeded(0)))
        assert [(p.state.text, p.logw) for p in pop] == [(text, 0.0)]


async def test_the_reference_is_always_among_the_particles_and_costs_nothing() -> None:
    for seed in range(20):
        at = place(Seeded(seed))
        pop = await Sweep(PROBLEM, toy_by(Seeded(seed)), 3, 1.0, 1.0)(graded("ab."), at)
        assert pop[0].state.text == "ab."
        assert at.account.spent.calls <= 2 * 3


@pytest.mark.parametrize("temper", [1.0, 3.0])
async def test_a_move_of_metropolis_hastings_keeps_its_target(temper: float) -> None:
    target = model_times_odds(temper)

    async def move(text: str, source: Source) -> str:
        rewrite = Rewrite(PROBLEM, toy_by(source), temper, 1.0)
        return (await rewrite([Particle(graded(text), 0.0, done=True)], place(source)))[0].state.text

    check_invariant(await matrix(list(target), move), list(target.values()))


async def test_chains_of_metropolis_hastings_move_independently() -> None:
    async def move(pair: tuple[str, str], source: Source) -> tuple[str, str]:
        rewrite = Rewrite(PROBLEM, toy_by(source, 1), 1.0, 1.0)
        pop = await rewrite([Particle(graded(text), 0.0, done=True) for text in pair], place(source))
        return (pop[0].state.text, pop[1].state.text)

    async def single(text: str, source: Source) -> str:
        return (await move((text, "."), source))[0]

    names = list(texts(1))
    one = await matrix(names, single)
    both = await matrix(list(itertools.product(names, repeat=2)), move)
    assert both == pytest.approx(np.kron(one, one))


TEMPERS = (1.0, 2.5)


def joint(deepest: int) -> dict[tuple[str, str], float]:
    cold, hot = (model_times_odds(temper, deepest) for temper in TEMPERS)
    return {(x, y): cold[x] * hot[y] for x in cold for y in hot}


async def test_exchanges_keep_the_product_of_the_targets() -> None:
    async def move(pair: tuple[str, str], source: Source) -> tuple[str, ...]:
        return tuple(d.text for d in exchanged([graded(t) for t in pair], TEMPERS, toy_by(source), place(source)))

    target = joint(2)
    chances = await matrix(list(target), move)
    law = np.array(list(target.values()))
    flow = law[:, None] * chances
    assert flow == pytest.approx(flow.T, rel=1e-9)
    assert 0 < np.trace(chances) < len(law)


async def test_exchanges_along_three_chains_keep_the_product_of_their_targets() -> None:
    tempers = (1.0, 2.5, 6.0)
    targets = [model_times_odds(temper, deepest=1) for temper in tempers]
    states = list(itertools.product(texts(1), repeat=3))

    async def move(triple: tuple[str, ...], source: Source) -> tuple[str, ...]:
        return tuple(d.text for d in exchanged([graded(t) for t in triple], tempers, toy_by(source), place(source)))

    law = np.array([math.prod(target[text] for target, text in zip(targets, s, strict=True)) for s in states])
    assert law @ await matrix(states, move) == pytest.approx(law, rel=1e-9)


@pytest.mark.slow
async def test_a_round_of_parallel_tempering_keeps_the_product_of_the_targets() -> None:
    async def move(pair: tuple[str, str], source: Source) -> tuple[str, ...]:
        by, at = toy_by(source, 1), place(source)
        sweeps = [Sweep(PROBLEM, by, 2, temper, 1.0) for temper in TEMPERS]
        chains = [Particle(Chain(s, (), graded(t))) for s, t in zip(sweeps, pair, strict=True)]
        moved = await each(chains, swept, at)
        references = [c.state.reference for c in moved if c.state.reference]
        return tuple(d.text for d in exchanged(references, TEMPERS, by, at))

    target = joint(1)
    check_invariant(await matrix(list(target), move), list(target.values()), reversible=False)


async def test_equal_temperatures_always_exchange() -> None:
    for seed in range(20):
        swapped = exchanged([graded("aa."), graded("bb.")], [2.0, 2.0], toy_by(Seeded(seed)), place(Seeded(seed)))
        assert [d.text for d in swapped] == ["bb.", "aa."]


async def test_a_better_draft_always_moves_to_the_colder_chain() -> None:
    for seed in range(20):
        swapped = exchanged([graded("aa."), graded("bb.")], TEMPERS, toy_by(Seeded(seed)), place(Seeded(seed)))
        assert [d.text for d in swapped] == ["bb.", "aa."]


def test_certain_grades_have_finite_odds_as_in_the_code_of_puri_et_al() -> None:
    by = toy_by(Seeded(0))
    odds = [log_odds(ROOT.graded("table", Grade(value)), by) for value in (0.0, 1e-9, 0.5, 1 - 1e-9, 1.0)]
    most = math.log((1 - 1e-7) / 1e-7)
    assert odds == pytest.approx([-most, -most, 0.0, most, most])
    assert log_odds(ROOT.graded("table", UNKNOWN), by) == log_odds(ROOT, by) == 0.0


# variances: a slip that keeps the mean is seen here


async def evidence(spelling: str, deepest: int = 2) -> tuple[float, float]:
    """Mean and variance of the estimated evidence, exactly."""
    method = methods.parse(spelling)
    seen = [
        (chance, math.exp(log_evidence(pop)))
        async for chance, pop in outcomes(lambda source: method(PROBLEM, toy_by(source, deepest), place(source)))
    ]
    mean = math.fsum(c * z for c, z in seen)
    return mean, math.fsum(c * (z - mean) ** 2 for c, z in seen)


async def test_the_evidence_is_unbiased_and_better_resampling_spreads_it_less() -> None:
    truth = math.fsum(model_times_odds().values())
    one = await evidence("particle-filter(n=1)")
    two = await evidence("particle-filter(n=2, ess=0.0)")
    filtered = await evidence("particle-filter(n=2, ess=1.0)")
    assert [mean for mean, _ in (one, two, filtered)] == pytest.approx([truth] * 3)
    assert two[1] == pytest.approx(one[1] / 2)  # independent particles
    assert filtered[1] < 0.98 * two[1]


async def test_an_infinite_temperature_of_resampling_keeps_everyone() -> None:
    """Systematic resampling by a uniform law."""
    hot = await evidence("particle-filter(n=2, ess=1.0, temper=1e6)", deepest=1)
    assert hot == pytest.approx(await evidence("particle-filter(n=2, ess=0.0)", deepest=1), rel=1e-4)


async def test_a_look_ahead_keeps_the_mean_and_spreads_the_evidence_less() -> None:
    truth = math.fsum(model_times_odds(deepest=1).values())
    blind, seeing = [
        await evidence(f"entropic-particle-filter(n=2, look_ahead={ahead})", deepest=1) for ahead in (False, True)
    ]
    assert [blind[0], seeing[0]] == pytest.approx([truth, truth])
    assert seeing[1] < 0.99 * blind[1]


async def test_the_entropic_temperature() -> None:
    def pop(*weights: float) -> list[Particle[Draft]]:
        return [Particle(ROOT, math.log(w)) for w in weights]

    spread, peaked = pop(1, 1, 1, 1), pop(97, 1, 1, 1)
    assert ess(peaked) / 4 == pytest.approx(0.2656, abs=1e-3)
    assert entropic(spread, 0.1) == 1.0
    assert entropic(peaked, 0.1) == pytest.approx(0.9 / (ess(peaked) / 4))
    assert entropic(peaked, 0.4) == pytest.approx(0.6 / (ess(peaked) / 4))
    assert entropic(peaked, 0.5) == 1.0
    assert entropic(pop(1), 0.0) == 1.0
    assert entropic(pop(4, 4, 1, 1), 0.0) == 1.0  # 0.735 of it is effective


async def test_the_entropic_filter_keeps_more_ancestors_while_few_lead_early() -> None:
    class Certain(TableVerifier):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Any]:
            _, cost = await super().grade(draft, problem, task, call)
            return Grade(0.999 if draft.text.startswith("b") else 0.2), cost

    class LongTask(ToyTask):
        max_steps = 12

    async def survivors(spelling: str, seed: int) -> int:
        run = Run(Seeded(seed))
        await methods.parse(spelling)(PROBLEM, By(ToyModel(Seeded(seed)), LongTask(), Certain()), Scope.root(run))
        first = next(e for e in run.trace.events if e.kind == "resample")  # type: ignore[attr-defined]
        return len(set(first.data["parents"]))

    plain, cool = [
        [await survivors(f"{name}(n=32{more})", seed) for seed in range(10)]
        for name, more in (("particle-filter", ", ess=1.0"), ("entropic-particle-filter", ""))
    ]
    assert sum(cool) > 1.2 * sum(plain)


async def test_annealing_goes_in_equal_parts() -> None:
    assert [annealed(t, 4.0, 1.0, 3) for t in range(5)] == pytest.approx([4.0, 3.0, 2.0, 1.0, 1.0])
    assert [annealed(t, 2.0, None, 3) for t in range(3)] == [2.0, 2.0, 2.0]


async def test_what_anneals_resamples_by_the_temperature_of_the_round() -> None:
    fixed, there, far = [
        await evidence(f"particle-filter(n=2, ess=1.0, {words})", deepest=1)
        for words in ("temper=5.0", "temper=5.0, temper_end=5.0", "temper=5.0, temper_end=0.2, temper_steps=1")
    ]
    assert fixed == there
    assert far[1] != pytest.approx(fixed[1], rel=1e-3)


@pytest.mark.parametrize(
    "name",
    ["particle-filter", "particle-filter-published", "particle-gibbs", "parallel-tempering", "metropolis-hastings"],
)
async def test_a_grade_that_is_no_probability_has_no_odds(name: str) -> None:
    class Loud(TableVerifier):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            _, cost = await super().grade(draft, problem, task, call)
            return Grade(3.1), cost

    with pytest.raises(UsageError, match=r"the verifier gave 3\.1; a method that weighs by odds needs probabilities"):
        await made(name, By(ToyModel(Seeded(1)), ToyTask(), Loud()))


# steering


def test_potentials() -> None:
    rewards = [0.2, 0.7, 0.4]
    assert potentials(rewards, "difference") == pytest.approx([0.2, 0.5, -0.3])
    assert potentials(rewards, "max") == [0.2, 0.7, 0.7]
    assert potentials(rewards, "sum") == pytest.approx([0.2, 0.9, 1.3])
    assert potentials([-3.0, -1.0], "max") == [-3.0, -1.0]


@pytest.mark.parametrize("form", ["difference", "max", "sum"])
async def test_weights_on_the_way_are_the_potentials_of_the_form(form: Any) -> None:
    class Noting(Scope):
        rounds: ClassVar[list[Population[Draft]]] = []

        def keep(self, population: Sequence[Any]) -> None:
            self.rounds.append(population)

    at = Noting.root(Run(Seeded(4)))
    await methods.parse(f"steer(n=6, form={form}, strength=2.0, ess=0.0)")(PROBLEM, toy_by(Seeded(4)), at)
    going = [p for pop in Noting.rounds for p in pop if not p.done]
    assert {len(p.state.steps) for p in going} == {1, 2}
    for p in going:
        values = [table(p.state.text[: i + 1]) for i in range(len(p.state.text))]
        assert p.logw == pytest.approx(2.0 * math.fsum(potentials(values, form)) - math.log(6))


@pytest.mark.parametrize("form", ["difference", "max", "sum"])
async def test_a_constraint_leaves_only_what_keeps_it(form: str) -> None:
    class NoB(TableVerifier):
        """Its zeros stay zeros; above them it tells more and less likely texts apart."""

        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Any]:
            grade, cost = await super().grade(draft, problem, task, call)
            return Grade(0.0) if "b" in draft.text else grade, cost

    method = methods.parse(f"steer(n=2, of=log, form={form}, strength=1.0, ess=1.0, resampling=systematic)")
    total: dict[str, float] = defaultdict(float)
    run = lambda source: method(PROBLEM, By(ToyModel(source), ToyTask(), NoB()), place(source))  # noqa: E731
    async for chance, pop in outcomes(run):
        for p in pop:
            if p.logw == -math.inf:
                assert p.state.text.endswith("b")  # nothing was written behind what broke it
            else:
                total[p.state.text] += chance * math.exp(p.logw)
    assert total == pytest.approx({text: p * table(text) for text, p in texts().items() if "b" not in text})


# degenerate identities


async def made(spelling: str, by: By | None = None, seed: int = 5) -> Population[Draft]:
    return await methods.parse(spelling)(PROBLEM, by or toy_by(Seeded(seed)), place(Seeded(seed)))


def read(pop: Population[Draft]) -> list[tuple[str, float]]:
    return sorted((p.state.text, round(w, 9)) for p, w in zip(pop, posterior(pop), strict=True))


@pytest.mark.parametrize("spelling", [
    "entropic-particle-filter(n=8)", "entropic-particle-filter(n=8, look_ahead=True)", "steer(n=8)",
    "particle-filter(n=8)", "particle-filter(n=8, ess=1.0)",
])  # fmt: skip
async def test_equal_grades_leave_samples(spelling: str) -> None:
    by = By(ToyModel(Seeded(5)), ToyTask(), Indifferent())
    plain = await made("particle-filter(n=8, ess=0.0)", By(ToyModel(Seeded(5)), ToyTask(), Indifferent()))
    assert read(await made(spelling, by)) == read(plain)


@pytest.mark.parametrize("form", ["difference", "max", "sum"])
async def test_no_strength_leaves_samples(form: str) -> None:
    plain = [(p.state.text, 0.125) for p in await made("particle-filter(n=8, ess=0.0)")]
    assert read(await made(f"steer(n=8, strength=0, form={form}, ess=1.0)")) == sorted(plain)


@pytest.mark.parametrize("name", ["particle-filter", "entropic-particle-filter", "steer"])
async def test_one_particle_is_one_sample(name: str) -> None:
    have = await expected_measure(lambda by, at: methods.parse(f"{name}(n=1)")(PROBLEM, by, at))
    total = dict(texts())
    assert have.keys() == total.keys()
    (particle,) = await made(f"{name}(n=1)")
    at = place(Seeded(5))
    assert len([p for p in await methods.parse(f"{name}(n=1)")(PROBLEM, toy_by(Seeded(5)), at) if p.done]) == 1
    assert at.account.spent.new_tokens == len(particle.state.text)


async def normalised(spelling: str, deepest: int = 1) -> dict[str, float]:
    """The expected share of each text."""
    total = dict.fromkeys(texts(deepest), 0.0)
    method = methods.parse(spelling)
    async for chance, pop in outcomes(lambda source: method(PROBLEM, toy_by(source, deepest), place(source))):
        for p, w in zip(pop, posterior(pop), strict=True):
            total[p.state.text] += chance * w
    return total


async def test_one_sweep_is_a_filter() -> None:
    plain = await normalised("particle-filter(n=2, ess=1.0, resampling=multinomial)")
    assert await normalised("particle-gibbs(n=2, sweeps=1)") == pytest.approx(plain)
    assert await normalised("parallel-tempering(chains=1, n=2, sweeps=1)") == pytest.approx(plain)


@pytest.mark.slow
async def test_a_sweep_brings_gibbs_nearer_to_its_target_and_one_chain_is_gibbs() -> None:
    plain, two = [await normalised(f"particle-gibbs(n=2, sweeps={sweeps})") for sweeps in (1, 2)]
    assert await normalised("parallel-tempering(chains=1, n=2, sweeps=2)") == pytest.approx(two)
    target = model_times_odds(deepest=1)
    truth = {text: weight / math.fsum(target.values()) for text, weight in target.items()}
    assert distance(two, truth) < distance(plain, truth)


async def test_moves_bring_metropolis_hastings_nearer_to_its_target() -> None:
    target = model_times_odds(deepest=1)
    truth = {text: weight / math.fsum(target.values()) for text, weight in target.items()}
    none, one = [await normalised(f"metropolis-hastings(chains=1, moves={moves})") for moves in (0, 1)]
    assert none == pytest.approx(texts(1))
    assert distance(one, truth) < distance(none, truth)


@pytest.mark.parametrize(("spelling", "calls", "found"), [
    ("metropolis-hastings(chains=3, moves=3)", range(9, 40), {3, 6, 9, 12}),
    ("parallel-tempering(chains=2, n=3, sweeps=2)", range(9, 40, 3), {3, 6}),
])  # fmt: skip
async def test_what_the_chains_visited_is_there_when_the_budget_ends(
    spelling: str, calls: range, found: set[int]
) -> None:
    method = methods.parse(spelling)
    whole, sizes = [p.state.text for p in await method(PROBLEM, toy_by(Seeded(5)), place(Seeded(5)))], set()
    for most in calls:  # the first three drafts take at most nine
        kept = await within(most, method, Seeded(5))
        assert [p.state.text for p in kept] == whole[: len(kept)]
        assert all("table" in p.state.grades for p in kept)
        sizes.add(len(kept))
    assert sizes == found


@pytest.mark.parametrize("most", [3, 4, 6])
async def test_an_unfinished_first_sweep_is_an_answer_where_there_is_no_other(most: int) -> None:
    kept = await within(most, methods.parse("parallel-tempering(chains=2, n=3, sweeps=2)"), Seeded(5))
    assert len(kept) == 3
    assert sum(len(p.state.text) for p in kept) >= most // 3 * 3


async def within(calls: int, method: Method, source: Source) -> Population[Draft]:
    """What there is to answer from after so many calls."""
    at = Scope.root(Run(source), Budget({"calls": calls}))
    try:
        return await method(PROBLEM, toy_by(source), at)
    except BudgetEnded:
        return at.kept or []


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    return sum(abs(one[text] - other[text]) for text in one) / 2


async def test_an_infinite_temperature_samples_the_model() -> None:
    assert await normalised("particle-gibbs(n=2, sweeps=1, temper=1e12)") == pytest.approx(texts(1), rel=1e-6)
    assert await normalised("metropolis-hastings(chains=1, moves=1, temper=1e12)") == pytest.approx(texts(1), rel=1e-6)
    assert await normalised("particle-filter(n=2, ess=0.0)") != pytest.approx(texts(1), rel=1e-2)


async def test_unknown_grades_sample_the_model() -> None:
    class Silent(TableVerifier):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Any]:
            _, cost = await super().grade(draft, problem, task, call)
            return UNKNOWN, cost

    for name in ("particle-gibbs", "parallel-tempering", "metropolis-hastings", "entropic-particle-filter"):
        pop = await made(name, By(ToyModel(Seeded(1)), ToyTask(), Silent()))
        assert len({round(p.logw, 9) for p in pop}) == 1


# failures, and lives cut off


class Always(Seeded):
    """The same seed everywhere, at which `Flaky` fails."""

    def seed(self, place: Path) -> int:
        return 0


class Flaky(ToyModel):
    """Fails for good at some seeds."""

    async def extend(self, request: Request, call: Call) -> Completion:
        completion = await super().extend(request, call)
        if call.seed % 9 == 0:
            raise ModelError("the model is out of order")
        return completion


@pytest.mark.parametrize("name", [
    "metropolis-hastings", "particle-gibbs", "entropic-particle-filter(look_ahead=True)", "steer",
])  # fmt: skip
async def test_failures_are_dropped_by_the_runs_policy(name: str) -> None:
    dropped = 0
    for seed in range(10):
        run = Run(Seeded(seed), failures="drop")
        pop = await methods.parse(name)(PROBLEM, By(Flaky(Seeded(seed)), ToyTask(), TableVerifier()), Scope.root(run))
        assert all(p.state.finished for p in pop)
        dropped += run.dropped
    assert dropped
    run = Run(Always(0), failures="drop")
    assert await methods.parse(name)(PROBLEM, By(Flaky(Always(0)), ToyTask(), TableVerifier()), Scope.root(run)) == []
    with pytest.raises(ModelError):
        await methods.parse(name)(PROBLEM, By(Flaky(Always(0)), ToyTask(), TableVerifier()), place(Always(0)))


@pytest.mark.parametrize("name", list(methods))
async def test_a_run_goes_on_from_any_moment(name: str) -> None:
    """What an earlier life recorded is not asked again, and the result is the same."""

    async def life(earlier: Sequence[Event]) -> tuple[list[tuple[str, float]], list[Event], int]:
        trace = MemoryTrace(earlier)
        run = Run(Seeded(8), trace)
        pop = await methods.parse(name)(PROBLEM, toy_by(Seeded(8)), Scope.root(run))
        return [(p.state.text, p.logw) for p in pop], trace.events, run.physical_calls

    whole, events, calls = await life(())
    bought = ("sample", "grade")
    assert calls == sum(e.kind in bought for e in events)
    for cut in random.Random(0).sample(range(len(events) + 1), k=min(6, len(events))):
        again, _, made = await life(events[:cut])
        assert again == whole
        assert made == calls - sum(e.kind in bought for e in events[:cut])


async def test_a_record_grades_no_other_draft() -> None:
    """As of a program that graded other drafts at these places."""
    trace, by = MemoryTrace(), toy_by(Seeded(0))
    first, other = ([Particle(Draft(ROOT, token, size=1))] for token in "ab")
    await by.grade(first, PROBLEM, Scope.root(Run(trace=trace)))
    again = MemoryTrace(trace.events)
    (same,) = await by.grade(first, PROBLEM, Scope.root(Run(trace=again)))
    assert by.value(same.state) == table("a")
    with pytest.raises(ForethoughtError, match="answers another request"):
        await by.grade(other, PROBLEM, Scope.root(Run(trace=again)))
