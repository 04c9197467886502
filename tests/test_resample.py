"""Every resampling scheme keeps the measure, by enumerating all that it can draw; and some are better than others."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from forethought.core.population import Particle, Population, ess, log_evidence, posterior
from forethought.core.resample import Law, Scheme, inclusion, resample
from forethought.core.scope import Clock, Run, Scope, Seeded
from tests.toy import Choices, Enumerated

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
DRAWN = tuple(scheme for scheme in SCHEMES if scheme != "optimal")
LOGW = st.one_of(st.just(-math.inf), st.sampled_from([0.0, 1.0]), st.floats(-3.0, 3.0))
POPULATIONS = st.lists(LOGW, min_size=1, max_size=5).map(lambda ws: [Particle(i, w) for i, w in enumerate(ws)])
LAWS = st.lists(st.one_of(st.sampled_from([0.2, 1.0]), st.floats(0.05, 1.0)), min_size=5, max_size=5)


class Stopped(Clock):
    def now(self) -> float:
        return 0.0


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_survives_of_nobody(scheme: Scheme) -> None:
    at = Scope.root(Run(Seeded(0), clock=Stopped()))
    assert resample([], 3, [], at, scheme) == resample([], 3, posterior([]), at, scheme) == []
    assert (ess([]), log_evidence([]), list(posterior([]))) == (0, -math.inf, [])


def outcomes(
    pop: Population[int], n: int, law: Sequence[float] | Law, scheme: Scheme
) -> Iterator[tuple[float, list[Particle[int]]]]:
    """Everything that resampling can return, with its probability: the last choice is advanced until none is left."""
    script: Choices = {}
    while True:
        source = Enumerated(script)
        drawn = resample(pop, n, law, Scope.root(Run(source=source, clock=Stopped())), scheme)
        made = script | source.fresh
        yield math.prod(probs[i] for i, probs in made.values()), drawn
        while made:
            place, (i, probs) = made.popitem()
            later = next((j for j in range(i + 1, len(probs)) if probs[j] > 0), None)
            if later is not None:
                script = made | {place: (later, probs)}
                break
        else:
            return


def variance(pop: Population[int], n: int, scheme: Scheme, f: Callable[[int], float]) -> float:
    """The exact variance of the estimate of `f` under the resampled measure."""
    seen = [
        (chance, sum(math.exp(p.logw) * f(p.state) for p in drawn))
        for chance, drawn in outcomes(pop, n, posterior(pop), scheme)
    ]
    mean = math.fsum(chance * x for chance, x in seen)
    return math.fsum(chance * (x - mean) ** 2 for chance, x in seen)


def alive(pop: Population[int]) -> list[Particle[int]]:
    return [p for p in pop if p.logw > -math.inf]


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=40, deadline=None)
@given(pop=POPULATIONS, weights=LAWS, n=st.integers(1, 4))
def test_the_measure_is_kept_under_any_law(
    scheme: Scheme, pop: list[Particle[int]], weights: list[float], n: int
) -> None:
    assume(alive(pop))
    expected: dict[int, float] = defaultdict(float)
    mass = 0.0
    for chance, drawn in outcomes(pop, n, weights[: len(pop)], scheme):
        mass += chance
        assert len(drawn) == (min(n, len(alive(pop))) if scheme == "optimal" else n)
        for p in drawn:
            expected[p.state] += chance * math.exp(p.logw)
    assert mass == pytest.approx(1)
    assert expected == pytest.approx({p.state: math.exp(p.logw) for p in alive(pop)}, rel=1e-9)


@pytest.mark.parametrize("scheme", DRAWN)
@settings(max_examples=20, deadline=None)
@given(pop=POPULATIONS, n=st.integers(1, 4))
def test_under_the_posterior_all_survivors_weigh_the_same(scheme: Scheme, pop: list[Particle[int]], n: int) -> None:
    assume(alive(pop))
    for _, drawn in outcomes(pop, n, posterior(pop), scheme):
        assert [p.logw for p in drawn] == pytest.approx([log_evidence(pop) - math.log(n)] * n)


@settings(max_examples=40, deadline=None)
@given(pop=POPULATIONS, n=st.integers(1, 4))
def test_optimal_keeps_the_heavy_as_they_are_and_draws_none_twice(pop: list[Particle[int]], n: int) -> None:
    assume(alive(pop))
    law = posterior(pop)
    for _, drawn in outcomes(pop, n, law, "optimal"):
        states = [p.state for p in drawn]
        assert len(set(states)) == len(states)
        assert {i for i, q in enumerate(law) if n * q >= 1 + 1e-9} <= set(states)
        raised = [p.logw for p in drawn if p.logw > pop[p.state].logw + 1e-9]
        assert raised == pytest.approx(raised[:1] * len(raised))  # the light survivors all weigh 1 / c
        assert all(p.logw <= raised[0] + 1e-9 or p.logw == pop[p.state].logw for p in drawn if raised)


@pytest.mark.parametrize("scheme", ["systematic", "residual", "stratified"])
@settings(max_examples=20, deadline=None)
@given(pop=POPULATIONS, n=st.integers(1, 4))
def test_offspring_stays_near_its_expectation(scheme: Scheme, pop: list[Particle[int]], n: int) -> None:
    assume(alive(pop))
    law = posterior(pop)
    for chance, drawn in outcomes(pop, n, law, scheme):
        if chance < 1e-6:
            continue  # an expectation within rounding of a whole number may be missed that rarely
        count = Counter(p.state for p in drawn)
        for i, q in enumerate(law):
            assert count[i] >= math.floor(n * q + 1e-9) - (scheme == "stratified")
            assert scheme == "residual" or count[i] <= math.ceil(n * q - 1e-9) + (scheme == "stratified")


@pytest.mark.parametrize("scheme", ["stratified", "residual"])
@settings(max_examples=20, deadline=None)
@given(pop=POPULATIONS, n=st.integers(1, 4), values=st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_never_worse_than_independent_draws(
    scheme: Scheme, pop: list[Particle[int]], n: int, values: list[float]
) -> None:
    """Douc & Cappe 2005, section 3: for every function."""
    assume(alive(pop))
    assert variance(pop, n, scheme, values.__getitem__) <= variance(pop, n, "multinomial", values.__getitem__) + 1e-9


@settings(max_examples=20, deadline=None)
@given(pop=POPULATIONS, n=st.integers(1, 4), first=st.integers(0, 4), last=st.integers(0, 4))
def test_systematic_is_best_of_all_for_neighbours(pop: list[Particle[int]], n: int, first: int, last: int) -> None:
    """The number drawn from a run of neighbours is its expectation rounded up or down: no law of it varies less.

    For arbitrary functions there is no such theorem (Douc & Cappe 2005, section 3.4).
    """
    assume(alive(pop))

    def inside(i: int) -> float:
        return float(first <= i <= last)

    best = variance(pop, n, "systematic", inside)
    for other in ("stratified", "residual", "multinomial"):
        assert best <= variance(pop, n, other, inside) + 1e-9


def test_systematic_beats_independent_draws_clearly_on_uneven_weights() -> None:
    pop = [Particle(i, math.log(w)) for i, w in enumerate([0.42, 0.1, 0.27, 0.21])]
    one = [(float(k == 0), float(k == 1), float(k == 2), float(k == 3)) for k in range(4)]
    spread = {scheme: sum(variance(pop, 4, scheme, one[k].__getitem__) for k in range(4)) for scheme in DRAWN}
    assert spread["systematic"] < 0.5 * spread["multinomial"]
    assert spread["systematic"] < spread["stratified"] < spread["multinomial"]
    assert spread["residual"] < spread["multinomial"]


def test_the_chances_of_a_draw_need_not_sum_to_one() -> None:
    def drawn(*chances: float) -> list[int]:
        return [Scope.root(Run(Seeded(seed))).draw(chances) for seed in range(400)]

    assert drawn(3, 0, 1) == drawn(0.75, 0, 0.25) == drawn(3 / 64, 0, 1 / 64)
    assert Counter(drawn(3, 0, 1)) == {0: pytest.approx(300, abs=40), 2: pytest.approx(100, abs=40)}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [0, -1])
def test_no_survivors_is_senseless(scheme: Scheme, n: int) -> None:
    with pytest.raises(ValueError, match="at least one survivor"):
        resample([Particle("x")], n, [1.0], Scope.root(Run(clock=Stopped())), scheme)


@pytest.mark.parametrize(("logw", "law"), [
    ([-math.inf, -math.inf], [0.5, 0.5]),
    ([0.0, 0.0], [1.0, 0.0]),
    ([0.0, 0.0], [1.0, -0.1]),
    ([0.0, 0.0], [1.0, math.nan]),
    ([0.0, 0.0], [1.0, math.inf]),
])  # fmt: skip
def test_a_law_without_full_support_is_refused(logw: list[float], law: list[float]) -> None:
    with pytest.raises(ValueError, match="living particle"):
        resample([Particle(i, w) for i, w in enumerate(logw)], 2, law, Scope.root(Run(clock=Stopped())))


def test_the_dead_need_no_law_and_the_done_stay_done() -> None:
    pop = [Particle("dead", -math.inf), Particle("done", 0.0, done=True)]
    drawn = resample(pop, 2, [0.7, 0.3], Scope.root(Run(clock=Stopped())))
    assert drawn == [Particle("done", math.log(1 / 2), True)] * 2


def test_weights_far_apart_can_be_resampled_at_a_low_temper() -> None:
    pop = [Particle("heavy", 0.0), Particle("light", -3000.0)]
    drawn = resample(pop, 2, posterior(pop, temper=0.25), Scope.root(Run(clock=Stopped())))
    assert [p.state for p in drawn] == ["heavy", "heavy"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [300, 100_000])
def test_many(scheme: Scheme, count: int) -> None:
    """A hundred thousand particles: nothing here may be quadratic."""
    n = 100_000
    pop = [Particle(i, float(w)) for i, w in enumerate(np.random.default_rng(1).normal(size=count))]
    drawn = resample(pop, n, posterior(pop), Scope.root(Run(Seeded(1), clock=Stopped())), scheme)
    assert len(drawn) == (min(n, count) if scheme == "optimal" else n)
    assert log_evidence(drawn) == pytest.approx(log_evidence(pop), abs=0.02)


@pytest.mark.parametrize("seed", range(30))
def test_the_chances_of_optimal_resampling_are_the_law_times_one_number_cut_at_one(seed: int) -> None:
    """That number by bisection: they sum to n."""
    chance = np.random.default_rng(seed)
    law = chance.dirichlet(np.full(chance.integers(2, 9), 0.3))
    n = int(chance.integers(1, len(law)))
    low, high = 0.0, 1e12
    for _ in range(200):
        c = (low + high) / 2
        low, high = (c, high) if np.minimum(1.0, c * law).sum() < n else (low, c)
    assert inclusion(law, n) == pytest.approx(np.minimum(1.0, high * law), abs=1e-6)
    assert inclusion(law, n).sum() == pytest.approx(n)


@pytest.mark.parametrize("number", [0, 2**63 - 1])  # the latter is one, as a fraction of 2**63
def test_nothing_of_no_probability_is_drawn_at_an_edge(number: int) -> None:
    class Edge(Seeded):
        def seed(self, place: tuple[int, ...]) -> int:
            return number

    assert Edge(0).choose((), [0.0, 1.0, 0.0]) == 1
