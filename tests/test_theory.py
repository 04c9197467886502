"""What imperfect verifiers can do: the closed forms against simulation, against brute force, and against real runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from forethought.core.errors import UsageError
from forethought.core.scope import Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.selection import selections
from forethought.verifiers import verifiers
from tests.theory import Kind, Resampling, solutions
from tests.toy import PROBLEM, ToyModel, ToyTask, texts

PAPER = Resampling((Kind(0.87, 0.58), Kind(0.13, 0.42)), false_positive=0.25)  # the model of the authors' notebook
rates = st.floats(0.01, 0.99)


def simulated(model: Resampling, attempts: int, n: int = 200_000) -> tuple[float, float, float]:
    """Shares of right and wrong answers, and mean attempts, by drawing each attempt."""
    draw = np.random.default_rng(0)
    kinds = draw.choice(len(model.kinds), n, p=[kind.share for kind in model.kinds])
    solved = np.array([kind.solved for kind in model.kinds])[kinds]
    right, wrong, drawn = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    for _ in range(attempts):
        going = ~(right | wrong)
        drawn += going
        good = draw.random(n) < solved
        taken = draw.random(n) < np.where(good, 1 - model.false_negative, model.false_positive)
        right |= going & good & taken
        wrong |= going & ~good & taken
    return right.mean(), wrong.mean(), drawn.mean()


@pytest.mark.parametrize(
    "model", [PAPER, Resampling((Kind(0.3),), 0.1, 0.4), Resampling((Kind(0.5, 0.5), Kind(0, 0.5)), 0.05)]
)
@pytest.mark.parametrize("attempts", [1, 3, 12])
def test_the_closed_forms_agree_with_simulation(model: Resampling, attempts: int) -> None:
    right, wrong, drawn = simulated(model, attempts)
    assert model.right(attempts) == pytest.approx(right, abs=0.005)
    assert model.wrong(attempts) == pytest.approx(wrong, abs=0.005)
    assert model.drawn(attempts) == pytest.approx(drawn, rel=0.01)


def test_the_cap_is_what_many_attempts_come_to() -> None:
    assert PAPER.cap() == pytest.approx(simulated(PAPER, 200)[0], abs=0.005)
    a = [0.87 / (0.87 + 0.25 * 0.13), 0.13 / (0.13 + 0.25 * 0.87)]
    assert PAPER.cap() == pytest.approx(0.58 * a[0] + 0.42 * a[1])
    assert PAPER.right(10_000) == pytest.approx(PAPER.cap())


@given(rates, rates, rates, rates, st.floats(0, 5), st.floats(0, 0.5))
def test_the_best_number_is_the_best_of_all(
    solved: float, hard: float, false_positive: float, false_negative: float, loss: float, price: float
) -> None:
    model = Resampling((Kind(solved, 0.6), Kind(hard, 0.4)), false_positive, false_negative)
    values = [model.value(k, 1, loss, price) for k in range(200)]
    best = model.best(1, loss, price)
    if best < 200:
        assert values[int(best)] >= max(values) - 1e-9
    else:
        assert values[-1] >= max(values) - 1e-6
    for k in range(1, 60):  # a marginal is a difference, given that attempt k is reached
        reached = math.fsum(kind.share * (1 - sum(model.accepts(kind))) ** (k - 1) for kind in model.kinds)
        assert reached * model.marginal(k, 1, loss, price) == pytest.approx(values[k] - values[k - 1], abs=1e-9)


@given(rates, rates, rates)
def test_degenerate_verifiers(solved: float, false_positive: float, false_negative: float) -> None:
    assume(false_positive < 0.9)
    perfect = Resampling((Kind(solved),), 0.0, false_negative)
    assert perfect.cap() == pytest.approx(1)
    assert perfect.best(1, 100) == math.inf
    blind = Resampling((Kind(solved),), false_positive, 1 - false_positive)  # accepts all alike
    assert blind.cap() == pytest.approx(solved)
    assert Resampling((Kind(solved),), 1.0).right(7) == pytest.approx(solved)  # takes the first
    assert Resampling((Kind(0.0),), false_positive).best(1, 1) == 0


@pytest.mark.parametrize("loss", [0.7, 1, 2])
def test_a_cost_of_wrong_answers_makes_the_best_number_finite(loss: float) -> None:
    """The paper's finding: with a penalty the best number of attempts is finite, often below 10."""
    best = PAPER.best(1, loss)
    assert 1 <= best < 10
    assert PAPER.value(best, 1, loss) > PAPER.value(best + 20, 1, loss)


def test_the_published_setting_without_a_penalty() -> None:
    assert PAPER.best(1, 0) == math.inf


@pytest.mark.parametrize("settings", [
    {"kinds": (), "false_positive": 0.1},
    {"kinds": (Kind(0.5, 0.5),), "false_positive": 0.1},
    {"kinds": (Kind(1.5),), "false_positive": 0.1},
    {"kinds": (Kind(0.5),), "false_positive": -0.1},
    {"kinds": (Kind(0.5),), "false_positive": math.nan},
])  # fmt: skip
def test_senseless_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Resampling(**settings)  # type: ignore[arg-type]


@pytest.mark.anyio
@pytest.mark.parametrize("n", [1, 4])
async def test_real_runs_under_a_noisy_verifier(n: int) -> None:
    """`best` under grades of 0 and 1 takes the first accepted draft, and where none is, the first of all.

    The toy model is right with its probability of `ab.`; 400 runs.
    """
    solved = texts()["ab."]
    noisy = verifiers.parse("noisy(false_positive=0.2, false_negative=0.1)")
    model = Resampling((Kind(solved),), 0.2, 0.1)
    (refused,) = (1 - sum(model.accepts(kind)) for kind in model.kinds)
    expected = model.right(n) + refused**n * 0.1 * solved / refused  # right, although refused
    hits, runs = 0, 400
    for seed in range(runs):
        at = Scope.root(Run(Seeded(seed)))
        by = By(ToyModel(Seeded(seed)), ToyTask(), noisy)
        pop = await methods.parse(f"sample(n={n})")(PROBLEM, by, at)
        verdict = await selections.parse("best")(pop, PROBLEM, by, at)
        assert verdict.chosen is not None
        hits += verdict.chosen.text == "ab."
    assert hits / runs == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / runs))


def test_solutions_and_verifications_share_a_budget() -> None:
    assert solutions(1000, 10, 20, 0) == 100
    assert solutions(1000, 10, 20, 2) == 20
