"""The blocks and their compositions keep the measure of a program: every choice enumerated, unnormalised mass included."""

from __future__ import annotations

import doctest
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Hashable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest

from forethought.core import blocks
from forethought.core.blocks import (
    Execution,
    Law,
    Program,
    accepted,
    advanced,
    degenerate,
    execute,
    given,
    independent,
    pimh,
    proper,
    resampled,
    rmsmc,
    sampled,
    sequentially,
    single_site,
    smc,
    spawn,
)
from forethought.core.errors import UsageError
from forethought.core.population import Particle, Population, log_evidence
from forethought.core.scope import Run, Scope, Seeded, Source
from tests.toy import outcomes

pytestmark = pytest.mark.anyio

T = TypeVar("T")
Key = tuple[Any, float]
Asks = Generator[Law | float, int, Any]


def weather() -> Asks:
    """Asymmetric, and its runs differ in the number of their choices and of their scores."""
    rain = yield [0.7, 0.3]
    yield (0.4, -0.5)[rain]
    if not rain:
        return "dry"
    wind = yield [0.2, 0.5, 0.3]
    yield (-0.3, 0.2, 0.9)[wind]
    return f"wet{wind}"


def walk() -> Asks:
    """A later law depends on an earlier choice; two scores each."""
    first = yield [0.6, 0.4]
    yield (0.7, -0.4)[first]
    second = yield ([0.5, 0.5], [0.9, 0.1])[first]
    yield (-0.2, 0.8)[second] - 0.3 * first
    return (first, second)


def harsh() -> Asks:
    """A score may rule a run out."""
    first = yield [0.5, 0.5]
    yield (-math.inf, 0.2)[first]
    second = yield [0.25, 0.75]
    return second


def silent() -> Asks:
    """No choice at all, then no score."""
    yield -0.25
    return "always"


def unscored() -> Asks:
    """Choices without a score."""
    return (yield [0.1, 0.9])


PROGRAMS = [weather, walk, harsh, silent, unscored]
every = pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)


def runs(program: Program[Any], until: float = math.inf, begun: tuple[int, ...] = ()) -> Iterator[Execution[Any]]:
    """Every run of a program that begins with the choices `begun`."""

    class MoreError(Exception):
        pass

    def choose(position: int, law: Law) -> int:
        if position == len(begun):
            raise MoreError(len(law))
        return begun[position]

    try:
        yield execute(program, choose, until)
    except MoreError as more:
        for i in range(more.args[0]):
            yield from runs(program, until, (*begun, i))


def measure(program: Program[Any]) -> dict[Hashable, float]:
    total: dict[Hashable, float] = defaultdict(float)
    for run in runs(program):
        if run.score > -math.inf:
            total[run.value] += math.exp(run.log_prior + run.score)
    return dict(total)


def place(source: Source) -> Scope:
    return Scope.root(Run(source=source))


async def expected(infer: Callable[[Scope], Awaitable[Population[Execution[Any]]]]) -> dict[Hashable, float]:
    total: dict[Hashable, float] = defaultdict(float)
    async for chance, pop in outcomes(lambda source: infer(place(source))):
        for p in pop:
            if p.logw > -math.inf:
                assert p.state.ended
                total[p.state.value] += chance * math.exp(p.logw)
    return dict(total)


# proper: the unnormalised measure


async def one(program: Program[Any], at: Scope) -> list[Particle[Execution[Any]]]:
    return [await sampled(program, at)]


COMPOSITIONS: dict[str, Callable[[Program[Any], Scope], Awaitable[Population[Execution[Any]]]]] = {
    "weighted": one,
    "population": lambda program, at: sequentially(spawn(Execution(program), 2), at, advanced),
    "smc": lambda program, at: smc(program, 2, at),
    "smc multinomial": lambda program, at: smc(program, 2, at, resampled(2, "multinomial")),
    "smc by ess": lambda program, at: smc(program, 2, at, resampled(2, share=0.9)),
    "smc to three": lambda program, at: smc(program, 2, at, resampled(3, "residual")),
    "rmsmc of one": lambda program, at: rmsmc(program, 1, 2, 1, at),
    "rmsmc without a score": lambda program, at: rmsmc(program, 2, 0, 1, at),
    "rmsmc": lambda program, at: rmsmc(program, 2, 1, 1, at),
}


@every
@pytest.mark.parametrize("composition", COMPOSITIONS)
async def test_compositions_keep_the_measure(program: Program[Any], composition: str) -> None:
    have = await expected(lambda at: COMPOSITIONS[composition](program, at))
    assert have == pytest.approx(measure(program), rel=1e-9)


@every
async def test_a_population_as_one_sample_keeps_the_measure(program: Program[Any]) -> None:
    async def infer(at: Scope) -> list[Particle[Execution[Any]]]:
        return [proper(await smc(program, 2, at), at)]

    assert await expected(infer) == pytest.approx(measure(program), rel=1e-9)


# evidence: unbiased, and less spread by more particles and by resampling


async def spread(infer: Callable[[Scope], Awaitable[Population[Any]]]) -> tuple[float, float]:
    """Mean and variance of the evidence, exactly."""
    seen = [(c, math.exp(log_evidence(pop))) async for c, pop in outcomes(lambda source: infer(place(source)))]
    mean = math.fsum(c * z for c, z in seen)
    return mean, math.fsum(c * (z - mean) ** 2 for c, z in seen)


@every
async def test_the_evidence_is_unbiased_and_its_variance_falls_with_particles(program: Program[Any]) -> None:
    truth = math.fsum(measure(program).values())
    spreads = [await spread(lambda at, n=n: smc(program, n, at, resampled(n, share=0.0))) for n in (1, 2)]  # type: ignore[misc]
    assert [mean for mean, _ in spreads] == pytest.approx([truth, truth])
    assert spreads[1][1] == pytest.approx(spreads[0][1] / 2)  # independent runs


async def test_systematic_resampling_spreads_the_evidence_less_than_multinomial() -> None:
    async def of(program: Program[Any], scheme: Any) -> float:
        return (await spread(lambda at: smc(program, 2, at, resampled(2, scheme))))[1]

    for program in (walk, weather):
        assert await of(program, "systematic") < (await of(program, "multinomial")) - 1e-6


def test_a_population_is_mended_only_where_its_weights_disagree() -> None:
    def pop(*logw: float) -> list[Particle[int]]:
        return [Particle(i, w) for i, w in enumerate(logw)]

    assert not degenerate(pop(0.3, 0.3, 0.3), 3)
    assert degenerate(pop(0.0, 0.1), 2)
    assert not degenerate(pop(0.0, 0.1), 1.9)  # its effective sample size is 1.995
    assert degenerate(pop(0.0, -math.inf), 2)
    assert not degenerate(pop(-math.inf, -math.inf), 2)


# traced: Markov moves, by their exact matrix


async def row(move: Callable[[Scope], Awaitable[T]]) -> AsyncIterator[tuple[float, T]]:
    async for chance, found in outcomes(lambda source: move(place(source))):
        yield chance, found


@every
@pytest.mark.parametrize("until", [1, 2, math.inf])
async def test_single_site_moves_are_reversible(program: Program[Any], until: float) -> None:
    states = [run for run in runs(program, until) if run.score > -math.inf]
    names = [run.choices for run in states]
    law = np.array([math.exp(run.log_prior + run.score) for run in states])
    matrix = np.zeros((len(states), len(states)))
    for i, state in enumerate(states):

        async def move(at: Scope, state: Execution[Any] = state) -> Particle[Execution[Any]]:
            return single_site(Particle(state, -0.5, state.ended), until, at)

        async for chance, found in row(move):
            assert found.logw == -0.5
            assert found.done == found.state.ended
            matrix[i, names.index(found.state.choices)] += chance
    flow = law[:, None] * matrix
    assert matrix.sum(axis=1) == pytest.approx(np.ones(len(states)))
    assert flow == pytest.approx(flow.T, rel=1e-9)
    if len(states) > 1:
        assert (np.linalg.matrix_power(matrix, 20) > 0).all()  # it gets everywhere


@pytest.mark.parametrize("n", [1, 2])
@every
async def test_pimh_follows_the_program(program: Program[Any], n: int) -> None:
    """The chain over (value, evidence) keeps the law of the proposals times their evidence, whose values follow the program."""

    async def propose(at: Scope) -> Particle[Execution[Any]]:
        return proper(await smc(program, n, at), at)

    proposals: dict[tuple[Any, float], float] = defaultdict(float)
    async for chance, p in row(propose):
        proposals[p.state.value, round(p.logw, 9)] += chance
    law = {key: chance * math.exp(key[1]) for key, chance in proposals.items()}
    states = [key for key in law if key[1] > -math.inf]
    matrix = np.zeros((len(states), len(states)))
    for i, now in enumerate(states):
        for key, chance in proposals.items():

            async def move(at: Scope, now: Key = now, new: Key = key) -> Particle[Any]:
                return independent(Particle(now, now[1]), Particle(new, new[1]), at)

            async for accepting, found in row(move):
                matrix[i, states.index(found.state)] += chance * accepting
    mass = np.array([law[state] for state in states])
    assert mass @ matrix == pytest.approx(mass, rel=1e-7)
    values = defaultdict(float)
    for (value, _), weight in law.items():
        values[value] += weight
    assert {v: w for v, w in values.items() if w} == pytest.approx(measure(program))


async def test_pimh_leaves_a_dead_start_and_never_dies_again() -> None:
    proposals = iter([Particle("dead", -math.inf), Particle("alive", -5.0), Particle("dead", -math.inf)])

    async def propose(at: Scope) -> Particle[str]:
        return next(proposals)

    assert [p.state for p in await pimh(propose, 2, place(Seeded(0)))] == ["dead", "alive", "alive"]


async def test_the_rule_of_metropolis() -> None:
    async def move(at: Scope, ratio: float) -> str:
        return accepted(Particle("now"), Particle("new"), ratio, at).state

    for ratio, chance in ((0.5, 1.0), (0.0, 1.0), (-0.5, math.exp(-0.5)), (-math.inf, 0.0)):
        new = [c async for c, state in row(lambda at, ratio=ratio: move(at, ratio)) if state == "new"]  # type: ignore[misc]
        assert math.fsum(new) == pytest.approx(chance)


# two ways


@every
async def test_what_is_drawn_can_be_scored(program: Program[Any]) -> None:
    async for chance, p in row(lambda at: sampled(program, at)):
        again = given(program, p.state.choices)
        assert again == p.state
        assert math.exp(again.log_prior) == pytest.approx(chance)
        assert again.score == p.logw


# degenerate cases


async def test_one_particle_is_likelihood_weighting() -> None:
    for seed in range(5):
        (particle,) = await smc(weather, 1, place(Seeded(seed)))
        assert particle.logw == pytest.approx(particle.state.score)


@pytest.mark.parametrize("program", [weather, walk])
async def test_moves_of_none_are_smc(program: Program[Any]) -> None:
    assert await spread(lambda at: rmsmc(program, 2, 2, 0, at)) == pytest.approx(
        await spread(lambda at: smc(program, 2, at))
    )


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64])
async def test_a_score_is_any_real_number(number: Callable[[int], Any]) -> None:
    def program() -> Asks:
        yield number(1)

    (particle,) = await smc(program, 1, place(Seeded(0)))
    assert particle.logw == 1.0


@pytest.mark.parametrize("senseless", [
    lambda at: smc(weather, 0, at), lambda at: smc(weather, -1, at), lambda at: rmsmc(weather, 0, 1, 1, at),
    lambda at: rmsmc(weather, 2, -1, 1, at), lambda at: rmsmc(weather, 2, 1, -1, at),
    lambda at: pimh(lambda at: sampled(weather, at), -1, at),
])  # fmt: skip
async def test_senseless_numbers_are_refused(senseless: Callable[[Scope], Awaitable[Any]]) -> None:
    with pytest.raises(UsageError, match="at least"):
        await senseless(place(Seeded(0)))


def test_the_example_runs_as_it_stands() -> None:
    assert doctest.testmod(blocks) == doctest.TestResults(0, 6)
