"""A bench of several selections: each row is what its method and selection would have made and cost alone."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.bench.run import Bench, open_store, run
from forethought.cli.bench import measured
from forethought.cli.show import bench_table
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft, Grade
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope, Seeded
from forethought.methods import By, Method, methods
from forethought.models.scripted import Scripted
from forethought.selection import Selection, Verdict, selections
from forethought.selection.protocol import Need
from forethought.selection.votes import polled, verdict_of, voted
from forethought.solving import Parts, solve_with
from forethought.tasks.protocol import Task
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask, toy_by

METHODS = ("greedy", "sample(n=6)", "beam(width=2, expand=2)", "particle-filter(n=4)")
PLENTY = Budget({"tokens": 10_000})
ONE_BY_ONE = Budget({"tokens": 5})  # a draft of three may be admitted, and after one of a single token another


class Dice(TableVerifier):
    """Grades by its seed, at a price that depends on it, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[Draft] = Counter()

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=4)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        self.asked[draft] += 1
        return Grade((1 + call.seed % 9) / 10), Cost(verifier_calls=1, verifier_tokens=1 + call.seed % 4)


@dataclass(frozen=True)
class Witness:
    """Asks the model for one more draft, at random, whose vote counts like all others together."""

    name: ClassVar[str] = "witness"
    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = "ours"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        room = at.account.fits(by.draft(problem, 1.0).bound(Particle(ROOT)))
        more = await each([Particle(ROOT)], by.draft(problem, 1.0), at) if room else []
        votes = await polled([*pop, *more], problem, by, at)
        return verdict_of(voted(votes, votes.weight, "max"), votes)


SELECTIONS: Sequence[Selection] = [*map(selections.parse, ("first", "majority", "weighted", "best")), Witness()]


def rows(
    method: Method, rules: Sequence[Selection], budget: Budget, seed: int = 0, verifier: Any = None
) -> dict[str, Any]:
    """The bench's rows by selection, without what the clock has a part in."""
    by = By(ToyModel(Seeded(seed)), ToyTask(), verifier or Dice())
    bench = Bench(by, [PROBLEM, Problem("another")], [method], rules, budget, seed)
    with tempfile.TemporaryDirectory() as folder:
        found = anyio.run(run, bench, open_store(Path(folder)))
    for row in found:
        del row["wall_seconds"], row["mean"]["seconds"], row["total"]["seconds"]
    return {row["selection"]: row for row in found}


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(METHODS),
    st.lists(st.sampled_from(SELECTIONS), min_size=2, max_size=4, unique_by=repr),
    st.integers(0, 60),
    st.integers(0, 2**32),
)
def test_a_row_is_the_row_of_its_selection_alone(spelling: str, rules: list[Selection], tokens: int, seed: int) -> None:
    method, budget = methods.parse(spelling), Budget({"tokens": tokens})
    together = rows(method, rules, budget, seed)
    for rule in rules:
        assert together[repr(rule)] == rows(method, [rule], budget, seed)[repr(rule)]
        assert (
            together[repr(rule)]["total"]["new_tokens"] + together[repr(rule)]["total"]["verifier_tokens"] <= 2 * tokens
        )


@pytest.mark.parametrize("spelling", METHODS)
def test_drafts_are_graded_once_for_all_selections(spelling: str) -> None:
    dice = Dice()
    rows(methods.parse(spelling), SELECTIONS, PLENTY, verifier=dice)
    assert dice.asked
    assert set(dice.asked.values()) == {1}


@pytest.mark.parametrize("spelling", METHODS)
def test_selections_that_want_no_grades_pay_for_none(spelling: str) -> None:
    found = rows(methods.parse(spelling), SELECTIONS, PLENTY)
    plain, rich = found["majority"]["total"], found[repr(selections.parse("best"))]["total"]
    assert plain["new_tokens"] == rich["new_tokens"]
    assert plain["verifier_calls"] < rich["verifier_calls"] or "process" in methods.parse(spelling).needs


@pytest.mark.anyio
async def test_the_wall_time_of_a_row_is_what_a_person_waits_also_in_two_lives(tmp_path: Path) -> None:
    def bench(most: int) -> Bench:
        """Each problem takes a fifth of a second, twice; after `most` calls the model breaks."""
        said: list[int] = []

        def script(prompt: str, so_far: str, seed: int) -> str:
            said.append(seed)
            if len(said) > most:
                raise KeyError("killed")
            return "ab."

        by = By(Scripted(script, latency=0.2), ToyTask(), None)
        rules = [selections.parse("first"), selections.parse("majority")]
        return Bench(by, [Problem(f"{i}") for i in range(8)], [methods.parse("sample(n=2)")], rules, ONE_BY_ONE)

    began = time.perf_counter()
    with pytest.raises(KeyError):
        await run(bench(most=8), open_store(tmp_path))
    await anyio.sleep(1)
    first, second = await run(bench(most=99), open_store(tmp_path))
    waited = time.perf_counter() - began - 1
    assert first["wall_seconds"] == second["wall_seconds"]
    assert 0.4 <= first["wall_seconds"] <= waited
    assert first["total"]["seconds"] >= 8 * 0.4
    assert (await run(bench(most=0), open_store(tmp_path)))[0] == first


def test_problems_recorded_without_their_ends_have_no_wall_time(tmp_path: Path) -> None:
    """As those that the first version recorded: they are not run again, and the table has a dash."""
    bench = Bench(toy_by(Seeded(0)), [PROBLEM], [methods.parse("greedy")], [selections.parse("first")], PLENTY)
    (first,) = anyio.run(measured, bench, tmp_path)
    with sqlite3.connect(tmp_path / "run.sqlite") as db:
        db.execute("UPDATE runs SET outcome = json_remove(outcome, '$.ended')")
    db.close()
    assert anyio.run(measured, bench, tmp_path) == [first | {"wall_seconds": None}]
    assert list(bench_table([first | {"wall_seconds": None}]).columns[-1].cells) == ["-"]


def test_a_bench_on_other_weights_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, when it begins: neither when it is read again, nor of those that came after it."""
    for weights, tells in (("old", False), ("new", True), ("new", False), ("old", False)):
        model = ToyModel(Seeded(0))
        model.weights = weights  # type: ignore[attr-defined]
        greedy, first = [methods.parse("greedy")], [selections.parse("first")]
        anyio.run(measured, Bench(By(model, ToyTask(), None), [PROBLEM], greedy, first, PLENTY), tmp_path)
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("forethought: ")]
        other = "forethought: run 1 asked the same of a model with other weights, so this run is a new one"
        assert told == [other] * tells


@pytest.mark.parametrize("rule", ["first", "majority", "weighted", "best"])
@pytest.mark.parametrize("spelling", ["greedy", "beam(width=2, expand=2)", "particle-filter(n=4)"])
@pytest.mark.parametrize("tokens", [0, 7, 12, 20, 10_000])
def test_a_row_is_what_solving_costs(spelling: str, rule: str, tokens: int) -> None:
    method, selection, budget = methods.parse(spelling), selections.parse(rule), Budget({"tokens": tokens})
    row = rows(method, SELECTIONS, budget, seed=5, verifier=TableVerifier())[repr(selection)]
    total, right = Cost(), 0
    for index, problem in enumerate([PROBLEM, Problem("another")]):
        by = By(ToyModel(Seeded(5)), ToyTask(), TableVerifier())
        alone = anyio.run(solve_with, Parts(by, method, selection, budget), problem, Seeded(5).seed((index,)))
        total += alone.cost
        right += alone.answer == "ab."
    assert row["total"] == {name: value for name, value in total._asdict().items() if name != "seconds"}
    assert row["accuracy"] == right / 2
