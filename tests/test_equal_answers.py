"""What a task takes its time to hold equal: nobody else waits for it, and a run that goes on takes it as it was."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from forethought.bench.run import Bench, open_store, run
from forethought.core.budget import Budget
from forethought.core.draft import Draft
from forethought.core.errors import ForethoughtError
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.store import RunStore
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.sandbox import equality
from forethought.selection import selections
from forethought.solving import Parts, solve_with
from forethought.tasks import TASKS
from forethought.tasks.classes import merged
from forethought.verifiers import verifiers
from tests.listed import ASKED, Cases, Listed, Words

pytestmark = pytest.mark.anyio


class Slow(Cases):
    """Knows whether an answer is right as soon as somebody else has been at work meanwhile."""

    def __init__(self) -> None:
        self.asked, self.others = threading.Event(), threading.Event()

    def correct(self, answer: str, problem: Problem) -> bool | None:
        self.asked.set()
        return self.others.wait(5)

    async def work(self) -> None:
        """What somebody else does while the answer is checked."""
        await anyio.to_thread.run_sync(self.asked.wait, 5)
        self.others.set()


async def test_others_go_on_while_a_draft_is_graded() -> None:
    task = Slow()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task.work)
        grade, _ = await verifiers.parse("exact").grade(Draft(None, "a", finish="end"), ASKED, task, Call((), 0))
    assert grade.value == 1


async def test_threads_are_left_for_others_however_many_compare() -> None:
    class Waiting(Cases):
        others = threading.Event()

        def correct(self, answer: str, problem: Problem) -> bool | None:
            return self.others.wait(5)

    exact, task, right = verifiers.parse("exact"), Waiting(), list[float | None]()

    async def one() -> None:
        right.append((await exact.grade(Draft(None, "a", finish="end"), ASKED, task, Call((), 0)))[0].value)

    async with anyio.create_task_group() as tasks:
        for _ in range(60):
            tasks.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(task.others.set)
    assert right == [1.0] * 60


async def test_an_answer_that_cannot_be_checked_in_time_is_not_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Hanging:
        def call(self, arguments: list[str], seconds: float) -> bool:
            raise TimeoutError

    monkeypatch.setattr(equality, "workers", Hanging)
    task, problem = TASKS["math"], Problem("?", "x+1")
    assert task.correct("y", problem) is None
    grade, _ = await verifiers.parse("exact").grade(Draft(None, "answer: y", finish="end"), problem, task, Call((), 0))
    assert grade.value is None
    by = By(Listed(["answer: y"]), task)
    bench = Bench(by, [problem], [methods.parse("greedy")], [selections.parse("first")], Budget({"tokens": 99}))
    (row,) = await run(bench, open_store(tmp_path))
    assert (row["failures"], row["error"]) == (1, "whether the answer 'y' is right cannot be told")


async def test_others_go_on_while_a_bench_looks_at_answers(tmp_path: Path) -> None:
    task = Slow()
    by, budget = By(Listed(["a"]), task), Budget({"tokens": 99})
    bench = Bench(by, [ASKED], [methods.parse("greedy")], [selections.parse("first")], budget)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task.work)
        (row,) = await run(bench, open_store(tmp_path))
    assert row["accuracy"] == 1


class Hurried(Cases):
    """Has no time in this life to find that two answers are the same."""

    def same(self, one: str, other: str, problem: Problem) -> bool:
        return False


STOPPING = [
    ("adaptive-self-consistency(n=9, window=3)", "aAabbbccc"),
    ("beta-self-consistency(n=9, window=4)", "aAaAbbbbb"),
    ("multi-temperature(n=8, temperatures=2, batch=2)", "aAAabbbb"),
    ("semantic-entropy(n=2, rounds=3, threshold=0)", "abAacc"),
]
stopping = pytest.mark.parametrize(("spelling", "words"), STOPPING)


@stopping
async def test_a_run_that_goes_on_stops_where_it_would_have(spelling: str, words: str) -> None:
    async def life(task: Words, trace: MemoryTrace) -> list[str]:
        pop = await methods.parse(spelling)(ASKED, By(Listed(words), task), Scope.root(Run(Seeded(0), trace)))
        return [p.state.text for p in pop]

    first = MemoryTrace()
    whole = await life(Cases(), first)
    assert await life(Hurried(), MemoryTrace()) != whole
    assert await life(Hurried(), MemoryTrace(first.events)) == whole


@stopping
async def test_a_run_that_is_read_again_says_what_it_said(spelling: str, words: str, tmp_path: Path) -> None:
    async def solved(task: Words) -> tuple[str | None, float, int]:
        parts = Parts(By(Listed(words), task), methods.parse(spelling), selections.parse("majority"))
        found = await solve_with(parts, ASKED, 0, RunStore(tmp_path / "runs"))
        return found.answer, found.confidence, len(found.population)

    assert await solved(Cases()) == await solved(Hurried())


async def test_a_record_of_other_answers_is_an_error() -> None:
    trace = MemoryTrace()
    assert await merged(["a", None, "A"], Cases(), ASKED, Scope.root(Run(Seeded(0), trace))) == ["a", None, "a"]
    at = Scope.root(Run(Seeded(0), MemoryTrace(trace.events)))
    with pytest.raises(ForethoughtError, match="the record at 1 is of other answers"):
        await merged(["a", "b"], Cases(), ASKED, at)
