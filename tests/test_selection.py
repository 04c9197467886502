"""Votes are counted as each rule says, nothing unfinished or unreadable votes, and grading stays inside the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import get_args

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.operators import branch
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By
from forethought.selection import Verdict, selections
from forethought.selection.protocol import Need
from forethought.tasks.protocol import Task
from forethought.verifiers import aggregate, verifiers
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask

pytestmark = pytest.mark.anyio
every = pytest.mark.parametrize("name", list(selections))


class Letters(ToyTask):
    """The answer is the first letter; a text that begins with "?" cannot be read."""

    def answer(self, text: str, problem: Problem) -> str | None:
        return None if text.startswith("?") else text[:1]


class Given(TableVerifier):
    """Grades by a table of texts; it cannot read what is not in there. Each grade takes 10 tokens."""

    def __init__(self, grades: dict[str, float] | None = None) -> None:
        self.grades, self.asked = grades or {}, list[str]()

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=10)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        self.asked.append(draft.text)
        return Grade(self.grades.get(draft.text)), Cost(verifier_calls=1, verifier_tokens=10)

    def compare_bound(self, first: Draft, second: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=10)

    async def compare(
        self, first: Draft, second: Draft, problem: Problem, task: Task, call: Call
    ) -> tuple[float | None, Cost]:
        """The first in the alphabet is the better one."""
        self.asked.append(first.text + second.text)
        return float(first.text < second.text), Cost(verifier_calls=1, verifier_tokens=10)


def draft(text: str, *steps: float | None, finish: str | None = "end") -> Draft:
    """A draft with these grades of its steps; None is an unknown grade, none at all is no grade yet.

    Its one token is less likely the longer the text.
    """
    grades = {}
    if steps:
        known = tuple(s for s in steps if s is not None)
        grades = {"table": Grade(known[-1], known) if known else UNKNOWN}
    told = (-0.1 * len(text),)
    return Draft(None, text, logprobs=told, finish=finish, grades=MappingProxyType(grades))  # type: ignore[arg-type]


def pop(*drafts: Draft, weights: Sequence[float] | None = None) -> Population[Draft]:
    weights = weights or [1.0] * len(drafts)
    return [Particle(d, math.log(w) if w else -math.inf, True) for d, w in zip(drafts, weights, strict=True)]


def place(budget: Budget | None = None) -> Scope:
    return Scope.root(Run(Seeded(0)), budget)


async def verdict(
    spelling: str, population: Population[Draft], verifier: TableVerifier | None = None, at: Scope | None = None
) -> Verdict:
    by = By(ToyModel(Seeded(0)), Letters(), verifier or Given())
    found = await selections.parse(spelling)(population, PROBLEM, by, at or place())
    if found.ranked:
        assert math.fsum(r.probability for r in found.ranked) + found.abstained == pytest.approx(1)
        assert found.chosen is not None
        assert found.confidence == found.ranked[0].probability
        assert Letters().answer(found.chosen.text, PROBLEM) == found.answer
    else:
        assert (found.chosen, found.abstained, found.answer, found.confidence) == (None, 1.0, None, 0.0)
    return found


def ranked(found: Verdict) -> dict[str, float]:
    return {answer: pytest.approx(probability) for answer, probability in found.ranked}


# every selection


@every
@pytest.mark.parametrize("drafts", [
    [],
    [draft("a1", 0.9, finish=None), draft("b", 0.9, finish="length")],
    [draft("?", 0.9), draft("??", 0.8)],
], ids=["empty", "unfinished", "unreadable"])  # fmt: skip
async def test_nothing_to_count_is_an_abstention(name: str, drafts: list[Draft]) -> None:
    assert not (await verdict(name, pop(*drafts))).ranked


@every
async def test_the_dead_do_not_vote(name: str) -> None:
    drafts = [draft("a", 0.9), draft("b", 0.5), draft("a2", 0.9)]
    found = await verdict(name, pop(*drafts, weights=[0, 1, 0]))
    assert [r.answer for r in found.ranked] == ["b"]
    assert not (await verdict(name, pop(*drafts, weights=[0, 0, 0]))).ranked


@every
async def test_unfinished_drafts_never_vote(name: str) -> None:
    drafts = [
        draft("a", 0.9, finish="length"),
        draft("a", 0.9, finish=None),
        draft("b", 0.1),
        draft("a", 0.9, finish="length"),
    ]
    assert [r.answer for r in (await verdict(name, pop(*drafts))).ranked] == ["b"]


@every
def test_says_what_it_is(name: str) -> None:
    part = selections[name]
    assert part.needs <= set(get_args(Need))
    assert part.paper
    assert part.__doc__
    assert selections.parse(repr(selections.parse(name))) == selections.parse(name)


@every
@given(
    st.lists(
        st.tuples(st.sampled_from("abc?"), st.sampled_from([0.0, 0.3, 1.0, None]), st.sampled_from([0, 0.5, 2])),
        max_size=6,
    )
)
@settings(deadline=None, max_examples=60)
def test_probabilities_and_abstention_sum_to_one(name: str, rows: list[tuple[str, float | None, float]]) -> None:
    drafts = [draft(f"{text}{i}", grade) for i, (text, grade, _) in enumerate(rows)]
    found = anyio.run(verdict, name, pop(*drafts, weights=[w for _, _, w in rows]))
    if name != "first":
        assert [r.probability for r in found.ranked] == sorted((r.probability for r in found.ranked), reverse=True)


# first


async def test_first_takes_the_first_that_can_be_read() -> None:
    found = await verdict("first", pop(draft("a", finish="length"), draft("?"), draft("b1"), draft("c"), draft("b2")))
    assert ranked(found) == {"b": 0.5}
    assert found.chosen is not None
    assert found.chosen.text == "b1"
    assert found.abstained == pytest.approx(0.5)


# majority


async def test_majority_counts_and_says_how_sure_it_is() -> None:
    found = await verdict("majority", pop(*map(draft, ["a", "b1", "?", "b2"])))
    assert ranked(found) == {"b": 0.5, "a": 0.25}
    assert found.abstained == pytest.approx(0.25)
    assert found.leading == ["b"]


async def test_majority_counts_weights() -> None:
    found = await verdict("majority", pop(*map(draft, ["a", "b", "b"]), weights=[4, 1, 1]))
    assert ranked(found) == {"a": 4 / 6, "b": 2 / 6}
    rich = await verdict("majority", pop(draft("a1"), draft("a2"), weights=[1, 3]))
    assert rich.chosen is not None
    assert rich.chosen.text == "a2"


async def test_equal_votes_share_the_credit() -> None:
    found = await verdict("majority", pop(*map(draft, ["b", "a", "c", "b", "a"])))
    assert found.leading == ["b", "a"]
    assert found.answer == "b"


async def test_copies_of_a_draft_vote_each_for_its_weight() -> None:
    one = draft("a")
    copies = branch([Particle(one, 0.0, True)], [4])
    assert ranked(await verdict("majority", [*copies, *pop(draft("b"))])) == {"a": 0.5, "b": 0.5}


async def test_majority_asks_no_verifier() -> None:
    verifier = Given()
    await verdict("majority", pop(draft("a")), verifier)
    assert verifier.asked == []


# weighted


@given(st.lists(st.tuples(st.sampled_from("abc?"), st.sampled_from([0.5, 1, 2])), min_size=1, max_size=8))
@settings(deadline=None, max_examples=50)
def test_equal_grades_make_the_weighted_vote_the_majority_vote(rows: list[tuple[str, float]]) -> None:
    population = pop(*(draft(f"{text}{i}", 0.25) for i, (text, _) in enumerate(rows)), weights=[w for _, w in rows])
    weighted, majority = anyio.run(verdict, "weighted", population), anyio.run(verdict, "majority", population)
    assert ranked(weighted) == {r.answer: r.probability for r in majority.ranked}
    assert weighted.chosen is majority.chosen


async def test_weighted_adds_up_or_takes_the_best() -> None:
    drafts = pop(draft("a1", 0.4), draft("b", 0.6), draft("a2", 0.5))
    assert ranked(await verdict("weighted", drafts)) == {"a": 0.6, "b": 0.4}
    best = await verdict("weighted(combine=max)", drafts)
    assert ranked(best) == {"b": 6 / 11, "a": 5 / 11}


async def test_weighted_counts_posterior_weights_too() -> None:
    found = await verdict("weighted", pop(draft("a", 0.2), draft("b", 0.4), weights=[3, 1]))
    assert ranked(found) == {"a": 0.6, "b": 0.4}


@pytest.mark.parametrize(("steps", "first", "second"), [
    ("last", 0.9, 0.5), ("min", 0.1, 0.5), ("mean", 0.5, 0.55), ("product", 0.09, 0.3),
])  # fmt: skip
async def test_a_process_grade_becomes_one_number(steps: str, first: float, second: float) -> None:
    drafts = pop(draft("a", 0.1, 0.9), draft("b", 0.6, 0.5))
    total = first + second
    assert ranked(await verdict(f"weighted(steps={steps})", drafts)) == {"a": first / total, "b": second / total}
    assert (await verdict(f"best(steps={steps})", drafts)).answer == ("a" if first > second else "b")


def test_one_number_of_a_grade() -> None:
    assert aggregate(UNKNOWN, "mean") is None
    assert aggregate(Grade(0.5), "product") == 0.5
    assert aggregate(Grade(0.5, (0.2, 0.5)), "product") == pytest.approx(0.1)


async def test_an_unknown_grade_has_no_vote() -> None:
    found = await verdict("weighted", pop(draft("a1", None), draft("a2", None), draft("b", 0.1)))
    assert ranked(found) == {"b": 1.0, "a": 0.0}
    assert not (await verdict("weighted", pop(draft("a", None)))).ranked


async def test_an_unreadable_answer_speaks_for_none() -> None:
    found = await verdict("weighted", pop(draft("a", 0.5), draft("?", 0.5)))
    assert (ranked(found), found.abstained) == ({"a": 0.5}, pytest.approx(0.5))


# best


async def test_best_takes_the_highest_grade_whatever_the_weights() -> None:
    found = await verdict("best", pop(draft("a", 0.7), draft("b", 0.8), draft("a", 0.1), weights=[100, 1, 100]))
    assert found.answer == "b"
    assert ranked(found) == {"b": 0.8 / 1.5, "a": 0.7 / 1.5}


async def test_best_breaks_ties_to_the_lowest_index() -> None:
    found = await verdict("best", pop(draft("?", 0.9), draft("b1", 0.8), draft("a", 0.8), draft("b2", 0.8)))
    assert found.answer == "b"
    assert found.chosen is not None
    assert found.chosen.text == "b1"
    assert found.leading == ["b", "a"]


async def test_best_ranks_the_unknown_below_all() -> None:
    found = await verdict("best", pop(draft("a", None), draft("b", 0.0)))
    assert [r.answer for r in found.ranked] == ["b", "a"]
    assert (await verdict("best", pop(draft("a", None), draft("b", None)))).answer == "a"


# grading


async def test_what_is_ungraded_is_graded_once() -> None:
    verifier, at = Given({"a": 0.2, "b": 0.9}), place()
    found = await verdict(
        "best", pop(draft("a"), draft("b"), draft("c", 0.5), draft("d", finish="length")), verifier, at
    )
    assert found.answer == "b"
    assert sorted(verifier.asked) == ["a", "b"]
    assert at.account.spent == Cost(verifier_calls=2, verifier_tokens=20, seconds=at.account.spent.seconds)


@pytest.mark.parametrize(
    ("tokens", "answer", "calls"), [(0, None, 0), (9, None, 0), (10, "a", 1), (25, "b", 2), (30, "c", 3)]
)
async def test_a_budget_that_ends_while_grading(tokens: int, answer: str | None, calls: int) -> None:
    verifier, at = Given({"a": 0.2, "b": 0.5, "c": 0.9}), place(Budget({"tokens": tokens}))
    found = await verdict("weighted", pop(draft("a"), draft("b"), draft("c")), verifier, at)
    assert found.answer == answer
    assert at.account.spent.verifier_calls == calls == len(verifier.asked)
    assert at.run.short == (calls < 3)


async def test_best_answers_when_nothing_could_be_graded() -> None:
    found = await verdict("best", pop(draft("a"), draft("b")), Given({"b": 0.9}), place(Budget({"tokens": 0})))
    assert found.answer == "a"


async def test_without_a_verifier_there_is_nothing_to_grade_with() -> None:
    by = By(ToyModel(Seeded(0)), Letters())
    with pytest.raises(UsageError, match="no verifier"):
        await selections.parse("best")(pop(draft("a")), PROBLEM, by, place())


# verifiers


class Wrong(ToyTask):
    checkable = False

    def answer(self, text: str, problem: Problem) -> str | None:
        return text or None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None if problem.reference is None else answer == problem.reference


async def test_the_exact_verifier() -> None:
    exact, known, call = verifiers.parse("exact"), Problem("?", "a"), Call((), 0)
    given = [draft("a"), draft("b"), draft(""), draft("a", finish="length")]
    grades = [(await exact.grade(d, known, Wrong(), call))[0].value for d in given]
    assert grades == [1.0, 0.0, 0.0, None]
    assert (await exact.grade(draft("a"), Problem("?"), Wrong(), call))[0].value is None
    assert exact.oracle(Wrong())
    assert not exact.oracle(ToyTask())


@pytest.mark.parametrize("per", ["sample", "answer"])
async def test_the_noisy_verifier_errs_at_its_rates(per: str) -> None:
    noisy = verifiers.parse(f"noisy(false_positive=0.3, false_negative=0.1, per={per})")
    source, rates = Seeded(1), []
    for text in ("a", "b"):
        grades = []
        for i in range(2000):
            problem = Problem(f"{i}", "a")
            grades.append((await noisy.grade(draft(text), problem, Wrong(), Call((), source.seed((i,)))))[0].value)
        rates.append(sum(g or 0.0 for g in grades) / 2000)
    assert rates == [pytest.approx(0.9, abs=0.03), pytest.approx(0.3, abs=0.03)]


async def test_equal_answers_get_equal_noise_where_it_is_by_answer() -> None:
    async def grades(per: str) -> set[float | None]:
        noisy = verifiers.parse(f"noisy(false_positive=0.5, per={per})")
        calls = [Call((), Seeded(0).seed((i,))) for i in range(30)]
        return {(await noisy.grade(draft("b"), Problem("?", "a"), Wrong(), c))[0].value for c in calls}

    assert len(await grades("answer")) == 1
    assert len(await grades("sample")) == 2


def test_error_rates_are_shares() -> None:
    with pytest.raises(UsageError, match="between 0 and 1, not 2"):
        verifiers.parse("noisy(false_positive=2)")
