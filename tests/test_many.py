"""Many problems under one budget: shares, what is left over, and where it goes."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import forethought
from forethought.core.budget import Budget, amount
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import ModelError, UsageError
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope, Seeded
from forethought.many import solve_all
from forethought.methods import By, methods
from forethought.methods.protocol import Saving
from forethought.models.protocol import Completion, Request
from forethought.models.scripted import Scripted
from forethought.selection import Verdict, selections
from forethought.selection.basic import Majority
from forethought.solving import Parts, Solution
from forethought.tasks.protocol import Task
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


async def test_the_odd_draws_are_given_on_too() -> None:
    found = await solved([EASY, HARD, HARD, HARD], "adaptive-self-consistency(n=10, window=5)")
    assert [len(s.population) for s in found] == [5, 12, 12, 11]
    found = await solved([EASY, *[HARD] * 7], "adaptive-self-consistency(n=10, window=5)")
    assert [len(s.population) for s in found] == [5, *[11] * 5, 10, 10]
    assert [s.cost.calls for s in found] == [5, *[11] * 5, 10, 10]


async def test_a_draft_that_failed_was_not_saved() -> None:
    """Problems from whose drafts some are dropped have begun all of them: there is nothing to give on."""

    class Failing(Scripted):
        begun = 0

        async def extend(self, request: Request, call: Call) -> Completion:
            self.begun += 1
            if call.seed % 3 == 0:
                raise ModelError("out of order")
            return await super().extend(request, call)

    failing = Failing(lambda prompt, so_far, seed: f"word{seed % 10**6}")
    method, rule = methods.parse("adaptive-self-consistency(n=10, window=5)"), selections.parse("majority")
    found = await solve_all(Parts(By(failing, Words()), method, rule, Budget(), "drop"), [HARD] * 4, 0)
    assert min(len(s.population) for s in found) < 10
    assert failing.begun == 40


class Balking(TableVerifier):
    """Cannot grade the drafts of one problem."""

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        if problem.text == "bad":
            raise ModelError("out of order")
        return Grade(0.5), Cost(verifier_calls=1)


class Speechless(Majority):
    """Cannot be asked about one problem."""

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        if problem.text == "bad":
            raise ModelError("out of order")
        return await super().__call__(pop, problem, by, at)


@pytest.mark.parametrize("method", ["beam(width=1, expand=2)", "sample(n=2)"])
async def test_solutions_stand_where_their_problems_do(method: str) -> None:
    """A problem of which all drafts were dropped has a solution without an answer; what fails as a whole fails the run."""
    by = By(ToyModel(Seeded(0)), ToyTask(), Balking())
    parts = Parts(by, methods.parse(method), selections.parse("weighted"), Budget(), "drop")
    good, bad = Problem("good"), Problem("bad")
    found = await solve_all(parts, [good, bad, good], 0)
    assert [s.answer is None for s in found] == [False, True, False]
    assert len(await solve_all(replace(parts, selection=Speechless()), [good, good], 0)) == 2
    with pytest.raises(ModelError, match="out of order"):
        await solve_all(replace(parts, selection=Speechless()), [good, bad, good], 0)


@pytest.mark.parametrize("method", ["first-finish(n=4, k=1)", "semantic-entropy(n=4)", "hint-marginalization(n=4)"])
async def test_what_was_begun_and_left_was_not_saved(method: str) -> None:
    alone = [(await solved([problem], method))[0].cost.calls for problem in (EASY, HARD)]
    together = await solved([EASY, HARD], method)
    assert [s.cost.calls for s in together] == alone


@pytest.mark.parametrize(("spelling", "made", "saved"), [
    ("capability-aware(n=6, window=3, steps=1, keep=0.5)", 4, 0),
    ("capability-aware(n=6, window=3, steps=1, keep=0.5)", 2, 3),
    ("capability-aware(n=5, window=2)", 5, 0),
    ("capability-aware(n=5, window=2)", 2, 3),
    ("eager(n=6)", 2, 4),
])  # fmt: skip
def test_what_pruning_drops_was_begun(spelling: str, made: int, saved: int) -> None:
    method = methods.parse(spelling)
    assert isinstance(method, Saving)
    assert method.saved([Particle(Draft())] * made) == saved


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
    assert 0 < sizes.count(1) < 12
    assert sum(sizes) == 2 * 12


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
