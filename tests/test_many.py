"""Many problems under one budget: shares, what is left over, and where it goes."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import forethought
from forethought.core.budget import Budget, amount
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Seeded
from forethought.many import solve_all
from forethought.methods import By, methods
from forethought.models.scripted import Scripted
from forethought.selection import selections
from forethought.solving import Parts, Solution
from tests.listed import Words
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask

pytestmark = pytest.mark.anyio


def model() -> Scripted:
    """Agrees with itself on easy problems; says another word each time on hard ones."""
    return Scripted(lambda prompt, so_far, seed: "same" if "easy" in prompt else f"word{seed % 10**6}")


EASY, HARD = Problem("easy"), Problem("hard")


async def solved(problems: list[Problem], method: str, budget: str = "none", **how: object) -> list[Solution]:
    return await forethought.solve_many(problems, task=Words(), model=model(), method=method, budget=budget, **how)  # type: ignore[arg-type]


async def test_what_easy_problems_save_goes_to_hard_ones() -> None:
    found = await solved([EASY, HARD, EASY, HARD], "adaptive-self-consistency(n=20, window=5)")
    assert [len(s.population) for s in found] == [5, 35, 5, 35]  # 2 * 15 draws saved, 15 more for each hard one
    assert [s.cost.calls for s in found] == [5, 35, 5, 35]
    assert [s.answer for s in found][::2] == ["same", "same"]
    assert {s.stopped for s in found} == {"done"}


@pytest.mark.parametrize("method", ["sample(n=6)", "greedy", "adaptive-self-consistency(n=5, window=5)"])
async def test_a_method_that_saves_nothing_has_one_round(method: str) -> None:
    found = await solved([EASY, HARD], method)
    assert [len(s.population) for s in found] == [{"sample(n=6)": 6, "greedy": 1}.get(method, 5)] * 2


async def test_all_hard_or_all_easy_is_one_round_too() -> None:
    for problem in (EASY, HARD):
        found = await solved([problem] * 3, "adaptive-self-consistency(n=10, window=5)")
        assert [len(s.population) for s in found] == [5 if problem is EASY else 10] * 3


async def test_each_has_a_share_and_the_rest_is_for_the_needy() -> None:
    """24 calls: 8 each; the easy one leaves 4, so 16 are left over in calls but only the saved draws are made."""
    found = await solved([EASY, HARD, HARD], "adaptive-self-consistency(n=8, window=4)", "calls=24")
    assert [s.cost.calls for s in found] == [4, 10, 10]
    found = await solved([EASY, HARD, HARD], "adaptive-self-consistency(n=8, window=4)", "calls=12")
    assert [s.cost.calls for s in found] == [4, 4, 4]
    assert [s.stopped for s in found] == ["done", "budget", "budget"]


@given(st.integers(0, 120), st.integers(0, 60), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=40)
def test_one_budget_holds_for_all(tokens: int, calls: int, count: int, seed: int) -> None:
    async def life() -> tuple[list[Solution], ToyModel]:
        toy = ToyModel(Seeded(seed))
        by = By(toy, ToyTask(), TableVerifier())
        budget = Budget({"tokens": tokens, "calls": calls})
        parts = Parts(
            by, methods.parse("beta-self-consistency(n=6, window=2, confidence=0.8)"), selections.parse("best"), budget
        )
        return await solve_all(parts, [PROBLEM] * count, seed), toy

    found, toy = anyio.run(life, backend="asyncio")
    again, _ = anyio.run(life, backend="trio")
    assert [(s.answer, s.cost._replace(seconds=0.0)) for s in found] == [
        (s.answer, s.cost._replace(seconds=0.0)) for s in again
    ]
    assert sum(amount(s.cost, "tokens") for s in found) <= tokens
    assert sum(s.cost.calls for s in found) == toy.spent.calls <= calls


async def test_forks_saved_are_forks_given() -> None:
    """Streams of EAGer: a problem whose tokens are certain has one, and the others get the rest."""
    by = By(ToyModel(Seeded(0)), ToyTask())
    parts = Parts(by, methods.parse("eager(n=2, entropy=1.0)"), selections.parse("majority"), Budget())
    found = await solve_all(parts, [PROBLEM] * 12, 0)
    sizes = [len(s.population) for s in found]
    saved, full = sizes.count(1), sum(size > 1 for size in sizes)
    assert 0 < saved < 12
    assert sizes == [1 if size == 1 else 2 for size in sizes] if saved < full else max(sizes) > 2


@pytest.mark.parametrize(("problems", "budget", "complaint"), [
    ([], "none", "at least one"),
    (["easy"], "tokens=9,new_tokens=3", "not both"),
])  # fmt: skip
async def test_what_makes_no_sense_is_refused(problems: list[str], budget: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        await forethought.solve_many(problems, task=Words(), model=model(), budget=budget)
    with pytest.raises(UsageError, match="of one task"):
        await forethought.solve_many(["what?", "chain 48\n1) -5\n"], model=model())


async def test_time_ends_all_and_what_was_drawn_is_read() -> None:
    slow = Scripted(lambda prompt, so_far, seed: "same", latency=0.05)
    method = "beta-self-consistency(n=400, window=1, confidence=1.0)"
    with anyio.fail_after(5):
        found = await forethought.solve_many([EASY] * 2, task=Words(), model=slow, method=method, budget="seconds=0.4")
    assert {s.stopped for s in found} == {"budget"}
    assert all(s.answer == "same" for s in found)
