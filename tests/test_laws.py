"""Every method is held to the law that it declares, by enumerating every random choice it can make."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from forethought.methods import methods
from tests.toy import PROBLEM, Program, expected_measure, model_times_odds, table, texts

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
