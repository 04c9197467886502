"""The Python interface."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio

from forethought.assembly import assemble, text_problem
from forethought.core.budget import Budget
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Failures
from forethought.core.store import RunStore
from forethought.many import solve_all
from forethought.methods import Method
from forethought.models.protocol import Model, close_opened
from forethought.selection import Selection
from forethought.solving import Solution, solve_with
from forethought.tasks.protocol import Task
from forethought.verifiers import Verifier

P = ParamSpec("P")
R = TypeVar("R")


async def solve(
    problem: str | Problem,
    *,
    task: str | Task | None = None,
    model: str | Model | None = None,
    method: str | Method = "sample(n=16)",
    verifier: str | Verifier | None = None,
    select: str | Selection | None = None,
    budget: str | Budget | None = None,
    seed: int = 0,
    failures: Failures = "fail",
    store: str | Path | None = None,
) -> Solution:
    """Solve one problem within a budget.

    Parts are given by their spellings (`"beam(width=4, expand=4)"`) or as objects. `problem` is a text, or a Problem of
    the task named. Defaults: the task is told from the text; `$FORETHOUGHT_MODEL`, else the embedded reasoner; `majority`,
    or `weighted` with a verifier; 16,000 tokens and 120 seconds. A draft whose model or verifier fails ends the run, or is
    dropped and counted with `failures="drop"`. With a `store`, the run is recorded in that file; the same call goes on with
    a run that was cut off, and of one that is done it returns what was recorded (`Solution.recorded`).

    Raises UsageError for what cannot work, before anything is spent, and ModelError if the model or the verifier fails.
    """
    kind, asked = problem_of(problem, task)
    check_seed(seed)
    parts = assemble(kind, model, method, verifier, select, budget, failures)
    with RunStore(Path(store)) if store else nullcontext() as runs:
        return await solve_with(parts, asked, seed, runs)


async def solve_many(
    problems: Sequence[str | Problem],
    *,
    task: str | Task | None = None,
    model: str | Model | None = None,
    method: str | Method = "adaptive-self-consistency",
    verifier: str | Verifier | None = None,
    select: str | Selection | None = None,
    budget: str | Budget | None = None,
    seed: int = 0,
    failures: Failures = "fail",
) -> list[Solution]:
    """Solve problems of one task within one budget for all of them, in two rounds (see `forethought.many`).

    Each has an equal share at first. Draws that a method stopped short of, and the budget that is left, go to the problems
    that made all of theirs: EAGer's second stage, for every method that stops early. Parts and defaults are those of
    `solve`; `stopped` says "budget" of all solutions if the budget cut any draft short. Nothing is recorded.

    Raises UsageError for what cannot work, before anything is spent, and ModelError if the model fails; with
    `failures="drop"` only where what fails is not a draft, such as a question of the selection.
    """
    check_seed(seed)
    asked = [problem_of(p, task) for p in problems]
    if len({kind.name for kind, _ in asked}) != 1:
        raise UsageError("solve_many takes problems of one task, and at least one of them")
    parts = assemble(asked[0][0], model, method, verifier, select, budget, failures)
    return await solve_all(parts, [problem for _, problem in asked], seed)


def problem_of(problem: str | Problem, task: str | Task | None) -> tuple[Task, Problem]:
    """A problem with its task: the one given, else the one that its name begins with, else what its text is told by."""
    if isinstance(problem, str):
        return text_problem(problem, task)
    if not isinstance(problem, Problem):
        raise UsageError(f"a problem is a text or a Problem, not {problem!r}")
    kind, as_text = text_problem(problem.text, task or problem.name.partition("/")[0] or None)
    return kind, replace(problem, text=as_text.text)


def check_seed(seed: object) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UsageError(f"a seed is a whole number, not {seed!r}")


def blocking(function: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    """The same function for scripts: it runs its own event loop, behind which no connection stays open."""

    async def whole(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await function(*args, **kwargs)
        finally:
            with anyio.CancelScope(shield=True):
                await close_opened()

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return anyio.run(partial(whole, *args, **kwargs))

    run.__name__ = run.__qualname__ = f"{function.__name__}_sync"
    run.__doc__ = f"`{function.__name__}` for scripts: runs its own event loop."
    return run


solve_sync = blocking(solve)
