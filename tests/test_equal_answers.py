"""What a task takes its time to hold equal: nobody else waits for it, and a run that goes on takes it as it was."""

from __future__ import annotations

import threading
from pathlib import Path

import anyio
import pytest

from forethought.bench.run import Bench, open_store, run
from forethought.core.budget import Budget
from forethought.core.draft import Draft
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.methods import By, methods
from forethought.selection import selections
from forethought.verifiers import verifiers
from tests.listed import ASKED, Cases, Listed

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
        while not self.asked.is_set():
            await anyio.sleep(0.001)
        self.others.set()


async def test_others_go_on_while_a_draft_is_graded() -> None:
    task = Slow()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task.work)
        grade, _ = await verifiers.parse("exact").grade(Draft(None, "a", finish="end"), ASKED, task, Call((), 0))
    assert grade.value == 1


async def test_others_go_on_while_a_bench_looks_at_answers(tmp_path: Path) -> None:
    task = Slow()
    by, budget = By(Listed(["a"]), task), Budget({"tokens": 99})
    bench = Bench(by, [ASKED], [methods.parse("greedy")], [selections.parse("first")], budget)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(task.work)
        (row,) = await run(bench, open_store(tmp_path))
    assert row["accuracy"] == 1
