"""A program to be killed: methods of the package on a slow toy model, in a store, every physical call written to a log.

As a script it forks lives of the program (see `serve`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import BudgetEnded
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.core.store import RunStore
from forethought.methods import By, methods
from forethought.models.protocol import Completion, Request
from forethought.tasks.protocol import Task
from tests.toy import PROBLEM, TableVerifier, ToyModel, ToyTask

SEED = 11
METHODS = ("particle-filter(n=5, ess=1.0)", "beam(width=2, expand=3)", "sample(n=6)")
ROUNDS = [(method, Budget({"tokens": tokens})) for tokens in (1000, 30, 12) for method in METHODS]


class Log:
    """Lines that are in the file, whatever becomes of the process, once `write` has returned."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, call: Call) -> None:
        os.write(self._file, f"{what} {'.'.join(map(str, call.place))}\n".encode())


async def wait(call: Call) -> None:
    await anyio.sleep(0.001 + call.seed % 64 / 32_000)


class SlowModel(ToyModel):
    def __init__(self, log: Log) -> None:
        super().__init__(Seeded(SEED))
        self.log = log

    async def extend(self, request: Request, call: Call) -> Completion:
        self.log.write("begin", call)
        await wait(call)
        completion = await super().extend(request, call)
        self.log.write("end", call)
        return completion


class SlowVerifier(TableVerifier):
    def __init__(self, log: Log) -> None:
        self.log = log

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        self.log.write("begin", call)
        await wait(call)
        graded = await super().grade(draft, problem, task, call)
        self.log.write("end", call)
        return graded


async def life(store: Path, log: Path) -> dict[str, Any]:
    """One life of the run: it goes on where the last one ended."""
    runs, written = RunStore(store), Log(log)
    row = runs.begin("a run", {"methods": METHODS, "seed": SEED})
    run = Run(Seeded(SEED), runs.trace(row.id))
    at = Scope.root(run, Budget({"tokens": 10_000}))
    by = By(SlowModel(written), ToyTask(), SlowVerifier(written))
    made = [await answers(spelling, budget, by, at) for spelling, budget in ROUNDS]
    cost = at.cost()._replace(seconds=0.0)
    runs.end(row.id, "done", {"made": made, "cost": cost})
    runs.close()
    return {"made": made, "cost": cost, "again": run.again}


async def answers(spelling: str, budget: Budget, by: By, at: Scope) -> list[tuple[str, float]]:
    inner: Scope | None = None
    try:
        with at.limit(budget) as inner:
            pop = await methods.parse(spelling)(PROBLEM, by, inner)
    except BudgetEnded:
        pop = (inner.kept if inner else None) or []
    return [(p.state.text, p.logw) for p in pop]


def serve() -> None:
    """Fork a life for every line and tell its process id; wait for it at the next line, and tell its exit code.

    Until then the process id is its own even if it has ended, so that it can be killed without harm to others.
    """
    for line in sys.stdin:
        store, log, result, backend = json.loads(line)
        child = os.fork()
        if not child:
            made = anyio.run(life, Path(store), Path(log), backend=backend)
            Path(result).write_text(json.dumps(made))
            os._exit(0)
        print("child", child, flush=True)
        sys.stdin.readline()
        print("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
