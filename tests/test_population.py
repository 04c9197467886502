"""Populations denote measures: their posterior, effective size and evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.core.operators import branch
from forethought.core.population import Particle, ended, ess, log_evidence, posterior

LOGW = st.one_of(st.just(-math.inf), st.floats(-2000.0, 2000.0))
POPULATIONS = st.lists(LOGW, max_size=8).map(lambda ws: [Particle(str(i), w) for i, w in enumerate(ws)])


def population(*logw: float) -> list[Particle[int]]:
    return [Particle(i, w) for i, w in enumerate(logw)]


@pytest.mark.parametrize("logw", [math.nan, math.inf])
def test_nan_and_plus_infinity_are_no_weights(logw: float) -> None:
    with pytest.raises(ValueError, match="log-weight"):
        Particle("x", logw)


def test_a_dead_particle_cannot_be_given_an_infinite_gain() -> None:
    with pytest.raises(ValueError, match="log-weight"):
        Particle("x", -math.inf).moved("y", gain=math.inf)


def test_a_dead_particle_has_ended_and_stays_dead() -> None:
    dead = Particle("x", -math.inf)
    assert dead.ended
    assert dead.moved("y", gain=3.0).logw == -math.inf
    assert ended([dead, Particle("y", 0.0, done=True)])
    assert not ended([dead, Particle("y")])
    assert ended([])


def test_a_move_gains_weight_and_may_end_the_particle() -> None:
    assert Particle("x", 1.0).moved("y", gain=0.5, done=True) == Particle("y", 1.5, True)


def test_posterior_of_known_weights() -> None:
    assert posterior(population(math.log(1), math.log(3), -math.inf)) == pytest.approx([0.25, 0.75, 0.0])


def test_temper_is_a_temperature() -> None:
    pop = population(math.log(1), math.log(4))
    assert posterior(pop, temper=2.0) == pytest.approx([1 / 3, 2 / 3])
    assert posterior(pop, temper=0.5) == pytest.approx([1 / 17, 16 / 17])


@pytest.mark.parametrize("temper", [0.0, -1.0, math.nan, math.inf])
def test_a_senseless_temper_is_refused(temper: float) -> None:
    with pytest.raises(ValueError, match="temper"):
        posterior(population(0.0), temper)


@pytest.mark.parametrize("logw", [(), (-math.inf,), (-math.inf, -math.inf)])
def test_all_dead(logw: tuple[float, ...]) -> None:
    pop = population(*logw)
    assert posterior(pop).tolist() == [0.0] * len(pop)
    assert ess(pop) == 0.0
    assert log_evidence(pop) == -math.inf


def test_effective_size_of_known_weights() -> None:
    assert ess(population(0.0, 0.0, 0.0)) == pytest.approx(3)
    assert ess(population(0.0, -math.inf)) == pytest.approx(1)
    assert ess(population(math.log(1), math.log(3))) == pytest.approx(1 / (0.25**2 + 0.75**2))


def test_whoever_lives_can_be_drawn_however_light() -> None:
    """Weights that are too far apart for floats must not turn the living into the dead."""
    law = posterior(population(0.0, -5000.0, -math.inf), temper=0.5)
    assert law[1] > 0
    assert law[2] == 0


@given(POPULATIONS)
def test_posterior_is_a_law_on_the_living(pop: list[Particle[str]]) -> None:
    law = posterior(pop)
    assert [q > 0 for q in law] == [p.logw > -math.inf for p in pop]
    assert ended(pop) or math.isclose(law.sum(), 1)


@given(POPULATIONS, st.floats(-500, 500))
def test_a_common_factor_changes_the_evidence_alone(pop: list[Particle[str]], shift: float) -> None:
    moved = [p.moved(p.state, gain=shift) for p in pop]
    assert posterior(moved) == pytest.approx(posterior(pop), rel=1e-6, abs=1e-12)
    assert ess(moved) == pytest.approx(ess(pop), rel=1e-6)
    assert log_evidence(moved) == pytest.approx(log_evidence(pop) + shift, abs=1e-9)


@given(POPULATIONS)
def test_effective_size_lies_between_one_and_the_number_of_the_living(pop: list[Particle[str]]) -> None:
    alive = sum(p.logw > -math.inf for p in pop)
    assert min(alive, 1) - 1e-9 <= ess(pop) <= alive + 1e-9


@given(POPULATIONS, POPULATIONS)
def test_evidence_adds_over_populations(one: list[Particle[str]], other: list[Particle[str]]) -> None:
    both = np.logaddexp(log_evidence(one), log_evidence(other)) if one or other else -math.inf
    assert log_evidence([*one, *other]) == pytest.approx(both, abs=1e-9)


@given(POPULATIONS, st.integers(1, 5))
def test_branching_keeps_the_evidence(pop: list[Particle[str]], copies: int) -> None:
    assert log_evidence(branch(pop, [copies] * len(pop))) == pytest.approx(log_evidence(pop), abs=1e-9)
