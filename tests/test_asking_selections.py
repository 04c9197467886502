"""Selections that ask: what they read, that they stay inside the budget, are charged, recorded and resumed."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable

import pytest

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.models.price import Price
from forethought.models.scripted import Scripted
from forethought.parts import Parts
from forethought.refusals import check
from forethought.selection import Verdict, selections
from forethought.selection.information import divergence, information
from forethought.selection.llm_choice import choice
from forethought.tasks import GENERATED
from forethought.tasks.text import Text
from forethought.verifiers import verifiers
from tests.test_selection import Given, Letters
from tests.toy import PROBLEM, ToyModel

pytestmark = pytest.mark.anyio
ASKED = Problem("What is 2 + 2? Two words more.")


def drafts(*answers: str) -> Population[Draft]:
    return [Particle(Draft(None, f"answer: {a}", size=4, finish="end"), 0.0, True) for a in answers]


def likes(answer: str, before: str = "checklist: right?\n") -> Callable[[str, str, int], str]:
    """A model that chooses the candidate with this answer, wherever it stands."""

    def script(prompt: str, so_far: str, seed: int) -> str:
        shown = re.findall(r"Candidate (\d+):\nanswer: (\S+)", prompt)
        return f"{before}choice: {next((k for k, said in shown if said == answer), 99)}"

    return script


async def chosen(spelling: str, pop: Population[Draft], model: Scripted, at: Scope | None = None) -> Verdict:
    return await selections.parse(spelling)(pop, ASKED, By(model, Text()), at or Scope.root(Run(Seeded(0))))


# one call


async def test_one_call_chooses_wherever_the_candidate_stands() -> None:
    for seed in range(6):
        model, at = Scripted(likes("4")), Scope.root(Run(Seeded(seed)))
        found = await chosen("llm-choice", drafts("5", "5", "4", "7"), model, at)
        assert dict(found.ranked) == {"4": 1.0}
        assert found.chosen is not None
        assert found.chosen.text == "answer: 4"
        assert (model.spent.calls, at.account.spent.new_tokens) == (1, model.spent.new_tokens)


async def test_calls_that_cannot_be_read_speak_for_none() -> None:
    def script(prompt: str, so_far: str, seed: int) -> str:
        return likes("4")(prompt, so_far, seed) if seed % 2 else "hm"

    found = await chosen("llm-choice(votes=12)", drafts("5", "5", "4"), Scripted(script))
    (only,) = found.ranked
    assert only.answer == "4"
    assert 0 < only.probability < 1
    assert only.probability + found.abstained == pytest.approx(1)


@pytest.mark.parametrize("says", ["", "choice: 7", "choice: none", "I choose 2"])
async def test_without_a_readable_choice_it_is_the_vote(says: str) -> None:
    found = await chosen("llm-choice", drafts("5", "5", "4"), Scripted(lambda *_: says))
    assert dict(found.ranked) == {"5": pytest.approx(2 / 3), "4": pytest.approx(1 / 3)}


async def test_candidates_are_shown_in_orders_of_their_own() -> None:
    orders = set()

    def script(prompt: str, so_far: str, seed: int) -> str:
        orders.add(tuple(re.findall(r"answer: (\S+)", prompt)))
        return "choice: 1"

    found = await chosen("llm-choice(votes=20)", drafts("5", "4", "7"), Scripted(script))
    assert len(orders) == 6
    assert len(found.ranked) == 3  # a model that likes the first place likes no candidate


async def test_a_budget_without_room_leaves_the_vote() -> None:
    at = Scope.root(Run(Seeded(0)), Budget({"calls": 0}))
    found = await chosen("llm-choice", drafts("5", "5", "4"), Scripted(likes("4")), at)
    assert found.answer == "5"
    assert at.run.short


async def test_a_choice_is_bought_once() -> None:
    model, run = Scripted(likes("4")), Run(Seeded(3))
    first = await chosen("llm-choice(votes=3)", drafts("5", "4"), model, Scope.root(run))
    again = Scope.root(Run(Seeded(3), MemoryTrace(run.trace.events)))  # type: ignore[attr-defined]
    assert (await chosen("llm-choice(votes=3)", drafts("5", "4"), model, again)).ranked == first.ranked
    assert (model.spent.calls, again.account.spent.calls) == (3, 3)


def test_a_choice_is_read_strictly() -> None:
    assert [choice(text, 3) for text in ("choice: 2", "**choice: #3**", "Choice: candidate 1.", "choice: 4", "choice: 0")] == [
        1, 2, 0, None, None
    ]  # fmt: skip


# tournaments


def letters(*texts: str) -> Population[Draft]:
    return [Particle(Draft(None, text, finish="end"), 0.0, True) for text in texts]


async def paired(spelling: str, pop: Population[Draft], judge: Given, at: Scope | None = None) -> Verdict:
    by = By(ToyModel(Seeded(0)), Letters(), judge)
    return await selections.parse(spelling)(pop, PROBLEM, by, at or Scope.root(Run(Seeded(0))))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13])
async def test_a_tournament_finds_the_best_in_as_many_comparisons_as_it_says(n: int) -> None:
    pop = letters(*"zyxwvutsrqponm"[:n])
    for seed in range(3):
        judge = Given()
        found = await paired("pairwise", pop, judge, Scope.root(Run(Seeded(seed))))
        assert found.answer == min(p.state.text for p in pop)
        assert len(judge.asked) == n - 1
        judge = Given()
        found = await paired("pairwise(order=sort)", pop, judge, Scope.root(Run(Seeded(seed))))
        assert [r.answer for r in found.ranked] == sorted(p.state.text for p in pop)
        assert len(judge.asked) <= n * max(1, math.ceil(math.log2(n)))
        assert math.fsum(r.probability for r in found.ranked) == pytest.approx(1)


async def test_who_is_shown_first_is_drawn() -> None:
    judge = Given()
    for seed in range(20):
        await paired("pairwise", letters("a", "b"), judge, Scope.root(Run(Seeded(seed))))
    assert set(judge.asked) == {"ab", "ba"}


class Blank(Given):
    """Says nothing that can be read, or that both are as good."""

    share: float | None = None

    async def compare(
        self, first: Draft, second: Draft, problem: Problem, task: object, call: Call
    ) -> tuple[float | None, Cost]:
        return self.share, Cost(verifier_calls=1, verifier_tokens=10)


@pytest.mark.parametrize("order", ["knockout", "sort"])
@pytest.mark.parametrize("share", [None, 0.5])
async def test_an_undecided_tournament_is_the_vote(order: str, share: float | None) -> None:
    judge = Blank()
    judge.share = share
    for seed in range(5):
        at = Scope.root(Run(Seeded(seed)))
        assert (await paired(f"pairwise(order={order})", letters("b", "a", "c", "c"), judge, at)).answer == "c"


@pytest.mark.parametrize("order", ["knockout", "sort"])
@pytest.mark.parametrize("tokens", [0, 10, 20, 30, 40, 1000])
async def test_a_tournament_stays_inside_its_budget(order: str, tokens: int) -> None:
    judge, at = Given(), Scope.root(Run(Seeded(0)), Budget({"tokens": tokens}))
    found = await paired(f"pairwise(order={order})", letters(*"edcbadd"), judge, at)
    assert at.account.spent.tokens == 10 * len(judge.asked) <= tokens
    assert len(found.ranked) == 5
    assert at.run.short == (tokens < 1000 and not (order == "knockout" and tokens >= 40))
    if tokens == 0:
        assert found.answer == "d"


async def test_a_real_judge_decides_a_tournament() -> None:
    def better(prompt: str, so_far: str, seed: int) -> str:
        return "better: first" if prompt.index("answer: 4") < prompt.index("answer: 5") else "better: second"

    by = By(Scripted(better), Text(), verifiers.parse("judge(votes=3)"))
    found = await selections.parse("pairwise")(drafts("5", "5", "4"), ASKED, by, Scope.root(Run(Seeded(1))))
    assert found.answer == "4"


def test_what_asks_says_what_it_needs() -> None:
    def refused(select: str, model: object, verifier: object = None) -> str:
        by = By(model, Text(), verifier)  # type: ignore[arg-type]
        with pytest.raises(UsageError) as error:
            check(ASKED, Parts(by, methods.parse("sample"), selections.parse(select)))
        return str(error.value)

    model = Scripted(lambda *_: "", price=Price())
    assert "compares drafts, such as judge; none was given" in refused("pairwise", model)
    assert "such as judge; exact cannot" in refused("pairwise", model, verifiers.parse("exact"))
    assert "rpc needs a model with the ability 'logprobs'" in refused("rpc", model)


# information


def test_information_by_hand() -> None:
    found = information(0.9, [0.3, 0.45], n=5, wanted=0.05)
    delta = (math.log(0.9 / 0.3) + math.log(2)) / 2
    needed = 0.95 * math.log(0.95 / 0.3) + 0.05 * math.log(0.05 / 0.7)
    assert found.delta == pytest.approx(delta)
    assert found.needed == pytest.approx(needed)
    assert found.ratio == pytest.approx(delta / needed)
    assert information(0.9, [1e-9], 5, 0.05).needed == pytest.approx(divergence(0.95, 1 / 7))
    assert information(0.5, [0.97], 5, 0.05).delta == 0


def reads(prompt: str, so_far: str, seed: int) -> str:
    """Knows the answer if it can read the numbers, and else guesses among many."""
    return "answer: 4" if "2 + 2?" in prompt else f"answer: {seed % 1000}"


def parrot(prompt: str, so_far: str, seed: int) -> str:
    return "answer: 4"


@pytest.mark.parametrize(
    ("script", "wanted", "answer"), [(reads, "risk=0.2, margin=0", "4"), (parrot, "risk=0.05", None)]
)
async def test_an_answer_that_the_prompt_does_not_speak_for_is_held_back(
    script: Callable[..., str], wanted: str, answer: str | None
) -> None:
    model, at = Scripted(script), Scope.root(Run(Seeded(1)))
    pop = drafts(*["4"] * 16)
    found = await chosen(f"abstain(test=information, {wanted})", pop, model, at)
    assert found.answer == answer
    assert model.spent.calls == at.account.spent.calls == 30


@pytest.mark.parametrize("calls", [0, 7, 12])
async def test_skeletons_stay_inside_the_budget(calls: int) -> None:
    model, at = Scripted(reads), Scope.root(Run(Seeded(1)), Budget({"calls": calls}))
    found = await chosen("abstain(test=information)", drafts(*["4"] * 16), model, at)
    assert model.spent.calls == at.account.spent.calls <= calls
    assert at.run.short
    assert calls or found.answer is None


async def test_answers_to_skeletons_are_not_graded() -> None:
    model, at, verifier = Scripted(reads), Scope.root(Run(Seeded(1))), Given({"answer: 4": 0.9})
    by = By(model, Text(), verifier, grade_drafts=True)
    await selections.parse("abstain(test=information, of=best)")(drafts(*["4"] * 3), ASKED, by, at)
    assert (model.spent.calls, verifier.asked) == (30, ["answer: 4"] * 3)


async def test_skeletons_for_which_there_is_no_time_are_left_out_and_said() -> None:
    model, at = Scripted(reads, latency=0.2), Scope.root(Run(Seeded(1), seconds=0.3))
    await chosen("abstain(test=information, n=2)", drafts(*["4"] * 16), model, at)
    assert at.run.short
    assert model.spent.calls <= 4  # the second skeleton is cut off, a third is not begun


def test_masked_problems_are_for_models_that_read_them() -> None:
    class Reasoner(ToyModel):
        name = "reasoner"

    chain, method = GENERATED["chain"], methods.parse("sample")
    for spelling, refused in (("abstain", False), ("abstain(test=information)", True)):
        parts = Parts(By(Reasoner(Seeded(0)), chain), method, selections.parse(spelling))
        with pytest.raises(UsageError, match="reads instructions") if refused else contextlib.nullcontext():
            check(chain.problem(1, 0), parts)


# only frequent answers are graded


async def test_best_of_majority_grades_only_what_is_frequent() -> None:
    verifier = Given({"a1": 0.2, "a2": 0.4, "b1": 0.9, "b2": 0.3, "c": 1.0})
    pop = letters("a1", "a2", "b1", "b2", "c", "?")
    found = await paired("best-of-majority(alpha=0.3)", pop, verifier)
    assert sorted(verifier.asked) == ["a1", "a2", "b1", "b2"]
    assert [r.answer for r in found.ranked] == ["b", "a"]
    mean = await paired(
        "best-of-majority(alpha=0.3, reward=mean)", pop, Given({"a1": 0.7, "a2": 0.7, "b1": 0.9, "b2": 0.3})
    )
    assert mean.answer == "a"
    assert (await paired("best-of-majority(alpha=0.9)", letters("a", "c", "c"), Given({"a": 1.0}))).answer == "c"
