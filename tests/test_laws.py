"""Every method is held to the law that it declares, by enumerating every random choice it can make."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Source
from forethought.methods import By, methods
from forethought.tasks.protocol import Task
from tests.toy import (
    NEXT,
    PROBLEM,
    Program,
    TableVerifier,
    ToyModel,
    ToyTask,
    expected_measure,
    model_times_odds,
    outcomes,
    table,
    texts,
)

pytestmark = pytest.mark.anyio

PROPER = {
    "sample(n=1)": texts,
    "sample(n=2, temperature=1.0)": texts,
    "particle-filter(n=1)": model_times_odds,
    "particle-filter(n=2, ess=0.0)": model_times_odds,
    "particle-filter(n=2, ess=1.0)": model_times_odds,
    "particle-filter(n=2, ess=0.85)": model_times_odds,
    "particle-filter(n=2, ess=1.0, temper=2.0)": model_times_odds,
    "particle-filter(n=2, ess=1.0, resampling=multinomial)": model_times_odds,
    "particle-filter(n=2, ess=1.0, resampling=stratified)": model_times_odds,
    "particle-filter(n=2, ess=1.0, resampling=residual)": model_times_odds,
    "particle-filter(n=2, ess=1.0, resampling=optimal)": model_times_odds,
    "particle-filter(n=2, ess=1.0, temper=3.0, temper_end=0.5, temper_steps=2)": model_times_odds,
    "particle-filter(n=2, ess=1.0, step=2)": model_times_odds,
    "entropic-particle-filter(n=1)": model_times_odds,
    "entropic-particle-filter(n=2)": model_times_odds,
    "steer(n=1)": lambda: steered(10.0),
    "steer(n=2, ess=1.0, strength=3.0, resampling=systematic)": lambda: steered(3.0),
    "steer(n=2, ess=0.95, strength=3.0, form=max, resampling=systematic)": lambda: steered(3.0),
    "steer(n=2, ess=1.0, strength=3.0, form=sum, resampling=systematic)": lambda: steered(3.0),
    "steer(n=2, ess=0.9, strength=2.0, of=log, resampling=systematic)": lambda: steered(2.0, math.log),
    "steer(n=2, ess=0.9, strength=2.0, of=log, form=max, resampling=systematic)": lambda: steered(2.0, math.log),
}
SLOW = {
    "particle-filter(n=3, ess=1.0)": model_times_odds,
    "particle-filter(n=3, ess=0.7)": model_times_odds,
    "entropic-particle-filter(n=2, resampling=multinomial)": model_times_odds,
    "entropic-particle-filter(n=2, look_ahead=True)": model_times_odds,
    "entropic-particle-filter(n=3)": model_times_odds,
    "steer(n=2, ess=1.0, strength=3.0)": lambda: steered(3.0),
    "steer(n=2, ess=1.0, strength=3.0, form=max)": lambda: steered(3.0),
    "steer(n=2, ess=1.0, strength=3.0, form=sum)": lambda: steered(3.0),
}


def steered(strength: float, reward: Callable[[float], float] = lambda grade: grade) -> dict[str, float]:
    return {text: p * math.exp(strength * reward(table(text))) for text, p in texts().items()}


def program(spelling: str) -> Program:
    method = methods.parse(spelling)
    return lambda by, at: method(PROBLEM, by, at)


def test_every_proper_method_is_enumerated() -> None:
    proper = {name for name in methods if methods[name].law == "proper"}
    assert proper == {spelling.partition("(")[0] for spelling in PROPER}


@pytest.mark.parametrize("spelling", PROPER)
async def test_proper_methods_keep_the_measure(spelling: str) -> None:
    assert await expected_measure(program(spelling)) == pytest.approx(PROPER[spelling](), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SLOW)
async def test_proper_methods_keep_the_measure_with_three_particles(spelling: str) -> None:
    assert await expected_measure(program(spelling)) == pytest.approx(SLOW[spelling](), rel=1e-9)


async def test_beam_is_biased_towards_what_the_verifier_likes() -> None:
    have = await expected_measure(program("beam(width=1, expand=2)"))
    mass = sum(have.values())
    assert mass == pytest.approx(1)
    assert have["bb."] / mass > 1.5 * texts()["bb."]
    assert have["aa."] / mass < 0.8 * texts()["aa."]


class Sharp(TableVerifier):
    """The table with its odds to the power 4, so that few particles lead."""

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        odds = sharp(draft.text)
        return Grade(odds / (1 + odds)), Cost(verifier_calls=1)


def sharp(text: str) -> float:
    return (table(text) / (1 - table(text))) ** 4


Picks = dict[tuple[int, ...], float]


def by_multinomial(law: Sequence[float]) -> Picks:
    indices = itertools.product(range(len(law)), repeat=len(law))
    return {picks: math.prod(law[i] for i in picks) for picks in indices}


def by_systematic(law: Sequence[float]) -> Picks:
    """One number u for all: survivor k is who holds (k + u) / n. Between the u at which some survivor changes none does."""
    n, edges, found = len(law), list(itertools.accumulate(law)), defaultdict[tuple[int, ...], float](float)
    cuts = sorted({0.0, 1.0, *(n * edge % 1.0 for edge in edges[:-1])})
    for low, high in itertools.pairwise(cuts):
        middle = (low + high) / 2
        picks = tuple(sum(edge <= (k + middle) / n for edge in edges[:-1]) for k in range(n))
        found[picks] += high - low
    return found


def cooled(odds: Sequence[float], t: int) -> float:
    """The published temperature: (1 - progress) / (ESS / n) while both are below 1/2, and never below 1."""
    share = sum(odds) ** 2 / sum(w * w for w in odds) / len(odds)
    progress = t / ToyTask.max_steps
    return max(1.0, (1 - progress) / share) if share < 0.5 and progress < 0.5 else 1.0


def published(
    n: int, temper: Callable[[Sequence[float], int], float], picked: Callable[[Sequence[float]], Picks]
) -> dict[str, float]:
    """Two rounds by their definition: all go on, all are drawn anew by the odds of their whole texts, weights are forgotten."""
    now = {("",) * n: 1.0}
    for t in (1, 2):
        after: dict[tuple[str, ...], float] = defaultdict(float)
        for pop, chance in now.items():
            if all(text.endswith(".") for text in pop):
                after[pop] += chance
                continue
            ways = [{"": 1.0} if text.endswith(".") else NEXT if t == 1 else {".": 1.0} for text in pop]
            for drawn in itertools.product(*ways):
                grown = [text + token for text, token in zip(pop, drawn, strict=True)]
                odds = [sharp(text) for text in grown]
                raised = [w ** (1 / temper(odds, t)) for w in odds]
                law = [w / sum(raised) for w in raised]
                step = math.prod(way[token] for way, token in zip(ways, drawn, strict=True))
                for picks, p in picked(law).items():
                    after[tuple(grown[i] for i in picks)] += chance * step * p
        now = after
    total: dict[str, float] = defaultdict(float)
    for pop, chance in now.items():
        for text in pop:
            total[text] += chance
    return total


@pytest.mark.parametrize(("spelling", "law"), [
    ("particle-filter-published(n=2)", lambda: published(2, lambda odds, t: 1.0, by_multinomial)),
    (
        "particle-filter-published(n=2, temper=2.0, temper_end=0.5, temper_steps=2)",
        lambda: published(2, lambda odds, t: {1: 2.0, 2: 1.25}[t], by_multinomial),
    ),
    ("entropic-particle-filter-published(n=3)", lambda: published(3, cooled, by_systematic)),
    (
        "entropic-particle-filter-published(n=2, resampling=multinomial)",
        lambda: published(2, lambda odds, t: 1.0, by_multinomial),  # two particles are never less than half effective
    ),
])  # fmt: skip
async def test_published_filters_follow_their_own_law(spelling: str, law: Callable[[], dict[str, float]]) -> None:
    method, have = methods.parse(spelling), defaultdict[str, float](float)

    async def run(source: Source) -> Population[Draft]:
        by = By(ToyModel(source, deepest=1), ToyTask(), Sharp())
        return await method(PROBLEM, by, Scope.root(Run(source=source)))

    async for chance, pop in outcomes(run):
        for p in pop:
            have[p.state.text] += chance * math.exp(p.logw)
    assert have == pytest.approx(law(), rel=1e-9)
    if "entropic" in spelling and "n=3" in spelling:
        assert have != pytest.approx(
            published(3, lambda odds, t: 1.0, by_systematic), rel=0.01
        )  # annealing does something


@pytest.mark.slow
async def test_the_published_filter_follows_the_product_of_prefix_odds_not_the_final_odds() -> None:
    have = await expected_measure(program("particle-filter-published(n=2)"))
    mass, target = sum(have.values()), model_times_odds()
    total = sum(target.values())
    assert mass == pytest.approx(2)  # weights are all one after its last resampling
    assert max(abs(have[t] / mass - target[t] / total) for t in target) > 0.02


async def test_greedy_is_a_point_mass_on_the_modes() -> None:
    assert await expected_measure(program("greedy")) == {"aa.": 1.0}


@pytest.mark.parametrize(
    "spelling", ["beam(width=1, expand=1, temperature=0)", "beam(width=2, expand=2, temperature=0.0)"]
)
async def test_beam_at_temperature_zero_is_greedy(spelling: str) -> None:
    assert (await expected_measure(program(spelling))).keys() == {"aa."}


async def test_one_particle_is_a_sample_with_its_weight() -> None:
    have = await expected_measure(program("particle-filter(n=1)"))
    odds = model_times_odds()
    assert {t: w / odds[t] for t, w in have.items()} == pytest.approx(dict.fromkeys(have, 1.0))
    assert math.isclose(sum((await expected_measure(program("sample(n=1)"))).values()), 1)
