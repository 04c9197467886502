"""Many problems, several methods, several selections of each: measured, stored, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from forethought import solving
from forethought.bench.prefix import as_made, with_grades
from forethought.bench.stats import Calibration, covered, interval
from forethought.core.budget import Budget
from forethought.core.cost import ZERO, Cost
from forethought.core.errors import ModelError
from forethought.core.problem import Problem
from forethought.core.scope import Failures, Run, Seeded
from forethought.core.store import RunRow, RunStore
from forethought.core.together import together
from forethought.methods import By, Method
from forethought.methods.sample import Sample
from forethought.parts import Parts, asked, key_of
from forethought.selection import Selection, Verdict, wants_grades
from forethought.solving import Made, populate
from forethought.tasks.classes import aside
from forethought.tasks.protocol import Task

Outcome = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Bench:
    """What is compared on which problems. Every method has the same budget a problem."""

    by: By
    problems: Sequence[Problem]
    methods: Sequence[Method]
    selections: Sequence[Selection]
    budget: Budget
    seed: int = 0
    failures: Failures = "fail"
    concurrency: int = 8

    def parts(self, method: Method, selection: Selection) -> Parts:
        return Parts(self.by, method, selection, self.budget, self.failures)

    def seed_of(self, index: int) -> int:
        return Seeded(self.seed).seed((index,))

    def begin(self, method: Method, index: int, store: RunStore) -> RunRow:
        """The run of a method on a problem, read by all selections."""
        parts = self.parts(method, self.selections[0])
        spec = asked(parts, self.problems[index], self.seed_of(index), "bench")
        spec |= {"selection": ", ".join(map(repr, self.selections))}
        return store.begin(key_of(spec), spec)


async def ready(bench: Bench) -> None:
    """Look at the endpoint, check every method with every selection, and load what runs here. Asked again it does nothing.

    Raises UsageError for what cannot work, before anything is spent.
    """
    await solving.ready([(bench.problems[0], bench.parts(m, s)) for m in bench.methods for s in bench.selections])


async def run(
    bench: Bench, store: RunStore, done: Callable[[Method], None] = lambda method: None
) -> list[dict[str, Any]]:
    """Run what the store does not have yet; return one row a method and selection.

    `done` is told of each problem that is finished. A problem whose model fails counts as wrong and as a failure, and is
    tried again when the bench is run again; a row has the last one's `error`. Its `wall_seconds` are the time in which
    its method was at work on any of the problems, for all selections together; `mean` and `total` have their clocks.
    """
    await ready(bench)
    rows = []
    for method in bench.methods:
        outcomes = await _all_problems(bench, method, store, done)
        rows += [_row(bench, method, selection, outcomes) for selection in bench.selections]
    return rows


async def _all_problems(bench: Bench, method: Method, store: RunStore, done: Callable[[Method], None]) -> list[Outcome]:
    """An outcome a problem. An error is raised alone, after the other problems are cancelled."""
    slots = anyio.CapacityLimiter(bench.concurrency)

    async def solve(index: int) -> Outcome:
        async with slots:
            outcome = await _one(bench, method, index, store)
            done(method)
            return outcome

    return await together([partial(solve, index) for index in range(len(bench.problems))])


async def _one(bench: Bench, method: Method, index: int, store: RunStore) -> Outcome:
    problem, parts = bench.problems[index], bench.parts(method, bench.selections[0])
    row = bench.begin(method, index, store)
    if row.status == "done" and row.outcome is not None:
        return row.outcome
    run, status = parts.run(bench.seed_of(index), store.trace(row.id)), "done"
    try:
        outcome = await _measure(bench, method, problem, await populate(parts, problem, run))
    except ModelError as error:
        status, outcome = "failed", {"error": str(error)}
    except BaseException:
        store.end(row.id, "interrupted")
        raise
    outcome = {**outcome, **_times(run)}
    store.end(row.id, status, outcome)
    return outcome


def _times(run: Run) -> dict[str, float]:
    """When a problem ended, and how long it had been at work by then, in all lives of its run."""
    return {"seconds": run.clock.now(), "ended": time.time()}


def _wall_seconds(outcomes: Sequence[Outcome]) -> float | None:
    """How long a person waited for the problems, which ran side by side. What an earlier life began and did not finish
    counts as if it had been done right before this one. None where one was recorded by a version that did not say.
    """
    if any("ended" not in o for o in outcomes):
        return None
    return covered([(o["ended"] - o["seconds"], o["ended"]) for o in outcomes])


async def _measure(bench: Bench, method: Method, problem: Problem, made: Made) -> Outcome:
    """Read one population with every selection. Drafts are graded once; a row costs what it would have cost alone."""
    by, budget, results = bench.by, bench.budget, {}
    plain = as_made(made)
    rich = plain
    if any(map(wants_grades, bench.selections)):
        rich = await with_grades(made, plain, by, problem, budget, cut=isinstance(method, Sample))
    for selection in bench.selections:
        reading = rich if wants_grades(selection) else plain
        verdict, cost = await reading.select(selection, made, by, problem, budget)
        results[repr(selection)] = await aside(by.task, partial(_credited, verdict, problem, by, cost))
    stopped = "budget" if made.at.run.short else made.stopped
    return {"results": results, "stopped": stopped}


def _credited(verdict: Verdict, problem: Problem, by: By, cost: Cost) -> dict[str, Any]:
    right = [told_right(by.task, answer, problem) for answer in verdict.leading]
    credit = sum(right) / len(right) if right else 0.0
    return {"answer": verdict.answer, "confidence": verdict.confidence, "credit": credit, "cost": cost._asdict()}


def told_right(task: Task, answer: str, problem: Problem) -> bool:
    """Raises ModelError where it cannot be told: a check that timed out says nothing of the answer."""
    right = task.correct(answer, problem)
    if right is None:
        raise ModelError(f"whether the answer '{answer[:40]}' is right cannot be told")
    return right


def _row(bench: Bench, method: Method, selection: Selection, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    readings = [o["results"][repr(selection)] for o in outcomes if "results" in o]
    credit = [r["credit"] for r in readings] + [0.0] * (len(outcomes) - len(readings))
    total = sum((Cost(**r["cost"]) for r in readings), ZERO)
    low, high = interval(credit)
    verifier = bench.by.verifier if wants_grades(selection) or {"process", "grades"} & method.needs else None
    return {
        "method": repr(method),
        "selection": repr(selection),
        "verifier": None if verifier is None else str(verifier),
        "oracle": bool(verifier and verifier.oracle(bench.by.task)),
        "task": bench.by.task.name,
        "difficulty": bench.problems[0].difficulty,
        "accuracy": sum(credit) / len(credit),
        "low": low,
        "high": high,
        **calibration(readings).as_json(),
        "problems": len(outcomes),
        "failures": len(outcomes) - len(readings),
        "error": next((o["error"] for o in reversed(outcomes) if "error" in o), None),
        "wall_seconds": _wall_seconds(outcomes),
        "mean": {name: value / max(len(readings), 1) for name, value in total._asdict().items()},
        "total": total._asdict(),
    }


def calibration(readings: Sequence[Mapping[str, Any]]) -> Calibration:
    """Of the confidence in the answers that were given."""
    given = [r for r in readings if r["answer"] is not None]
    return Calibration.of([r["confidence"] for r in given], [r["credit"] for r in given])


def open_store(folder: Path) -> RunStore:
    """The store of a bench in its folder, which is made. Raises UsageError."""
    return RunStore(folder / "run.sqlite")
