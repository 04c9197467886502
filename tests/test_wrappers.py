"""Verifiers for studies and for steering: an over-confident wrapper, and a constraint on the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, UNKNOWN, Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.models.scripted import Scripted
from forethought.tasks.protocol import Task
from forethought.verifiers import Verifier, verifiers
from forethought.verifiers.aggregated import Aggregated
from forethought.verifiers.asking import given, grown
from forethought.verifiers.noisy import Noisy
from forethought.verifiers.overconfident import Overconfident
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask, table, texts

pytestmark = pytest.mark.anyio
CALL = Call((), 0)


class Reading(TableVerifier):
    """Charges what nothing of its own name has graded yet, as a process reward model does, and grades each step."""

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        known = next((d for d in draft.lineage() if d is not draft and self.name in d.grades), ROOT)
        return Cost(verifier_calls=1, verifier_tokens=len(draft.text) - len(known.text))

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        steps = tuple(table(draft.text[: i + 1]) for i in range(len(draft.text)))
        return Grade(steps[-1], steps), self.bound(draft, problem, task)


class Watched(Reading):
    """Keeps what it was asked to grade."""

    def __init__(self) -> None:
        self.read: list[str] = []

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        self.read.append(draft.text)
        return await super().grade(draft, problem, task, call)


class Unsure(TableVerifier):
    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        return UNKNOWN, Cost(verifier_calls=1)


def draft(text: str) -> Draft:
    made = ROOT
    for i, token in enumerate(text):
        made = Draft(made, token, size=i + 1, finish="end" if token == "." else None)
    return made


def around(inner: Verifier, sharpen: float = 3.0, until: int = 2) -> Overconfident:
    made: Overconfident = type("Around", (Overconfident,), {"inner": inner})("exact", sharpen, until)
    return made


def log_odds(grade: float | None) -> float:
    assert grade is not None
    return math.log(grade / (1 - grade))


async def grade_of(verifier: Verifier, text: str) -> Grade:
    return (await verifier.grade(draft(text), PROBLEM, ToyTask(), CALL))[0]


@pytest.mark.parametrize(("steps", "fold"), [
    ("last", lambda grades: grades[-1]), ("min", min), ("mean", fmean), ("product", math.prod),
])  # fmt: skip
async def test_a_search_goes_by_all_steps_of_an_aggregated_verifier(
    steps: Any, fold: Callable[[Sequence[float]], float]
) -> None:
    verifier: Aggregated = type("Around", (Aggregated,), {"inner": Reading()})(steps, "exact")
    grades = [table(text) for text in ("b", "ba", "ba.")]
    assert await grade_of(verifier, "ba.") == Grade(pytest.approx(fold(grades)), tuple(grades))
    by = By(ToyModel(Seeded(1)), ToyTask(), verifier)
    (best,) = await methods.parse("beam(width=1, expand=8)")(PROBLEM, by, Scope.root(Run(Seeded(1))))
    assert by.value(best.state) == pytest.approx(
        fold([table(best.state.text[: i + 1]) for i in range(best.state.size)])
    )
    assert best.state.grades[str(verifier)].cost.verifier_tokens == 1  # only its last step was read anew


async def test_an_unknown_grade_stays_unknown_however_it_is_aggregated() -> None:
    verifier = Aggregated("mean", "exact")
    verifier.__dict__["inner"] = Unsure()
    assert (await grade_of(verifier, "ba.")).value is None


async def test_confidence_is_multiplied_and_fades() -> None:
    sure = around(Reading(), sharpen=3.0, until=2)
    for text, factor in (("b", 3.0), ("a", 3.0), ("ab", 2.0), ("aba", 1.0), ("abab", 1.0), ("b.", 1.0)):
        grade = await grade_of(sure, text)
        assert log_odds(grade.value) == pytest.approx(factor * log_odds(table(text)))
        assert grade.value == grade.steps[-1]


async def test_no_sharpening_is_the_verifier_itself_and_unknown_stays_unknown() -> None:
    for text in ("a", "ab", "ab."):
        plain, same = await grade_of(Reading(), text), await grade_of(around(Reading(), sharpen=1.0), text)
        assert same.value == pytest.approx(plain.value)
        assert (await grade_of(around(Unsure()), text)).value is None


async def test_certain_grades_stay_numbers() -> None:
    class Certain(TableVerifier):
        async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
            return Grade(float(draft.text == "b")), Cost()

    grades = [(await grade_of(around(Certain(), sharpen=20.0), text)).value for text in "ab"]
    assert grades == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("wrapped", [False, True])
async def test_the_wrapper_costs_what_the_verifier_costs(wrapped: bool) -> None:
    """Each step is read once, under either name, also where several particles make it."""
    inner = Watched()
    at = Scope.root(Run(Seeded(2)))
    by = By(ToyModel(Seeded(2)), ToyTask(), around(inner) if wrapped else inner)
    pop = await methods.parse("particle-filter(n=6, ess=0.0)")(PROBLEM, by, at)
    assert at.account.spent.new_tokens == sum(len(p.state.text) for p in pop)
    # a step is a letter, and a token
    beginnings = {p.state.text[: i + 1] for p in pop for i in range(len(p.state.text))}
    assert sorted(inner.read) == sorted(beginnings)
    assert at.account.spent.verifier_tokens == len(beginnings)


async def test_a_draft_of_many_pieces_is_wrapped_as_far_as_somebody_looks() -> None:
    verifier, long = around(Watched()), draft("ab" * 2000)
    graded = replace(long, parent=None).graded(str(verifier), Grade(0.5, (0.5,)))
    seen = verifier._seen(Draft(Draft(graded, "a"), "."))
    assert [str(verifier.inner) in d.grades for d in seen.lineage()] == [False, False, True]
    assert verifier._seen(long) is long  # nobody has graded it
    verifier.bound(long, PROBLEM, ToyTask())


async def test_the_final_weights_of_a_filter_are_those_of_the_verifier_itself() -> None:
    by = By(ToyModel(Seeded(2)), ToyTask(), around(Reading()))
    pop = await methods.parse("particle-filter(n=6, ess=0.0)")(PROBLEM, by, Scope.root(Run(Seeded(2))))
    for p in pop:
        assert p.logw == pytest.approx(log_odds(table(p.state.text)) - math.log(6))


def test_it_is_an_oracle_or_grades_steps_as_the_inner_one_does() -> None:
    around_exact = verifiers.parse("overconfident(of=exact)")
    assert not around_exact.process
    assert around_exact.oracle(ToyTask()) == verifiers.parse("exact").oracle(ToyTask())
    assert around(TableVerifier()).process


@pytest.mark.parametrize("spelling", [
    "overconfident(of=nothing)", "overconfident(sharpen=-1)", "overconfident(until=0)", "pattern(avoid='(')",
])  # fmt: skip
def test_senseless_wrappers_are_refused(spelling: str) -> None:
    with pytest.raises(UsageError) as caught:
        verifiers.parse(spelling)
    assert "\n" not in str(caught.value)


async def test_a_pattern_holds_for_what_is_written_and_at_the_end_for_what_must_be_there() -> None:
    pattern = verifiers.parse("pattern(avoid='bb', contain='a')")
    want = {"a": 1, "b": 1, "bb": 0, "abba": 0, "b.": 0, "bb.": 0, "ba.": 1}
    assert {text: (await grade_of(pattern, text)).value for text in want} == want
    assert (await grade_of(verifiers.parse("pattern"), "b.")).value == 1


async def test_steering_by_a_pattern() -> None:
    by = By(ToyModel(Seeded(0)), ToyTask(), verifiers.parse("pattern(avoid=b)"))
    at = Scope.root(Run(Seeded(0)))
    pop = await methods.parse("steer(n=16, of=log, strength=1.0, ess=1.0)")(PROBLEM, by, at)
    living = {p.state.text for p in pop if p.logw > -math.inf}
    assert living
    assert living <= {text for text in texts() if "b" not in text}


# steps, in however many pieces, under wrappers


class Lines(ToyTask):
    step_break, step_tokens, draft_tokens, max_steps = "\n", 4, 64, 9


class Grown(TableVerifier):
    """Grades the draft as it stands, behind the grades of its beginnings; each a number of its own."""

    def __init__(self) -> None:
        self.asked = 0

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        self.asked += 1
        return grown(draft, str(self), 0.6 + self.asked / 100), Cost(verifier_calls=1)


async def along(verifier: Verifier, *pieces: str, seed: int = 0) -> list[Grade]:
    """The grades of a draft as it grows by these pieces, each at a place of its own."""
    made, grades = ROOT, []
    for i, piece in enumerate(pieces):
        made = Draft(made, piece, size=made.size + 1)
        grade, _ = await verifier.grade(made, PROBLEM, Lines(), Call((i,), Seeded(seed).seed((i,))))
        made, grades = made.graded(str(verifier), grade), [*grades, grade]
    return grades


async def test_confidence_fades_by_steps_not_by_pieces() -> None:
    sure = around(Constant(), sharpen=3.0, until=2)
    whole, halves = await along(sure, "one\n", "two\n"), await along(sure, "o", "ne\n", "t", "wo\n")
    assert [g.value for g in halves] == [whole[0].value, whole[0].value, whole[1].value, whole[1].value]
    assert [log_odds(g.value) for g in whole] == pytest.approx([3 * log_odds(0.7), 2 * log_odds(0.7)])


async def test_a_step_that_was_graded_is_not_sharpened_twice() -> None:
    first, second = await along(around(Grown(), sharpen=3.0, until=2), "one\n", "two\n")
    assert second.steps == (first.value, second.value)
    assert log_odds(second.value) == pytest.approx(2 * log_odds(0.62))


def noisy(inner: Verifier, **told: object) -> Noisy:
    made: Noisy = type("Around", (Noisy,), {"inner": inner})(**{"false_positive": 0.3, "false_negative": 0.2, **told})
    return made


class Constant(TableVerifier):
    """Grades every line."""

    def __init__(self, value: float = 0.7) -> None:
        self.value = value

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        lines = len(draft.text.splitlines())
        return Grade(self.value, (self.value,) * lines), Cost(verifier_calls=1)


@pytest.mark.parametrize(("value", "rate"), [(0.7, 0.2), (0.3, 0.3)])
async def test_noise_errs_at_each_step_at_its_rate_and_once(value: float, rate: float) -> None:
    wrong = []
    for seed in range(300):
        grades = await along(noisy(Constant(value)), "a\n", "b\n", "c\n", "d\n", seed=seed)
        assert all(later.steps[:-1] == earlier.steps for earlier, later in pairwise(grades))
        assert [g.value for g in grades] == list(grades[-1].steps)
        wrong.append([g != value for g in grades[-1].steps])
        assert {*grades[-1].steps} <= {value, 1 - value}
    for step in zip(*wrong, strict=True):
        assert sum(step) / 300 == pytest.approx(rate, abs=0.08)
    assert len({tuple(row) for row in wrong}) > 8  # each step by itself


async def test_noise_is_of_the_place_or_of_the_text() -> None:
    pieces = ["a\n", "b\n", "c\n"]
    placed = [
        [g.value for g in await along(noisy(Constant()), *pieces, seed=seed)] for seed in (*range(20), *range(20))
    ]
    assert placed[:20] == placed[20:]
    assert len({tuple(p) for p in placed}) > 2
    told = noisy(Constant(), per="answer")
    assert len({tuple([g.value for g in await along(told, *pieces, seed=seed)]) for seed in range(20)}) == 1
    assert len({(await along(told, f"{i}\n"))[0].value for i in range(40)}) == 2


async def test_a_filter_runs_under_noise() -> None:
    """Each step is read once, and its grade stays."""
    at, inner = Scope.root(Run(Seeded(2))), Watched()
    by = By(ToyModel(Seeded(2)), ToyTask(), noisy(inner))
    assert by.verifier is not None
    assert by.verifier.process
    pop = await methods.parse("particle-filter(n=8)")(PROBLEM, by, at)
    for p in pop:
        *drafts, _ = p.state.lineage()
        assert [g.steps for d in drafts for g in d.grades.values()] == [
            drafts[0].grades[str(by.verifier)].steps[: len(drafts) - i] for i in range(len(drafts))
        ]
    assert at.account.spent.verifier_tokens == len(inner.read) == len({*inner.read})


async def test_what_a_wrapper_asks_may_ask_the_runs_model() -> None:
    wrapper = given(verifiers.parse("noisy(of='self-eval')"), Scripted(lambda *_: "yes"))
    assert wrapper.inner.own.name == "scripted"
    assert (wrapper.process, verifiers.parse("noisy").process) == (True, False)
    heavy = Constant()
    heavy.weights = "abc"  # type: ignore[attr-defined]
    assert (noisy(heavy).weights, noisy(Constant()).weights) == ("abc", "")
    with pytest.raises(UsageError, match="there is no verifier 'self'"):
        verifiers.parse("noisy(of=self)")
