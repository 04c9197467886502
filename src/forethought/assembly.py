"""From words to the parts of a run: what the command line and the Python interface share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from forethought.core.budget import Budget
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Failures
from forethought.methods import By, Method, methods
from forethought.methods.sample import Sample
from forethought.models.names import bytes_of, default_model, model_named
from forethought.models.price import Price
from forethought.models.protocol import Model
from forethought.parts import DEFAULT_BUDGET, Parts
from forethought.selection import Selection, Tallying, selections, wants_grades
from forethought.tasks import GENERATED, generated_task, task_named
from forethought.tasks.protocol import Task
from forethought.verifiers import Verifier, verifiers

T = TypeVar("T")


def budget_of(budget: str | Budget | None) -> Budget:
    if isinstance(budget, str):
        return Budget.parse(budget)
    if budget is not None and not isinstance(budget, Budget):
        raise UsageError(f"a budget is a text such as 'tokens=2000,seconds=10', or a Budget, not {budget!r}")
    return DEFAULT_BUDGET if budget is None else budget


def checked(kind: str, part: T, does: str) -> T:
    """The part. Raises UsageError for an object that is none of its kind: it lacks what all of them do."""
    if isinstance(part, type) or not hasattr(part, does):
        raise UsageError(f"a {kind} is given by its spelling or as an object, not {part!r}")
    return part


def failures_of(text: str) -> Failures:
    """What becomes of a draft whose model fails, by its word. Raises UsageError for another word than fail or drop."""
    if text not in ("fail", "drop"):
        raise UsageError(f"failures is fail or drop, not '{text}'")
    return "drop" if text == "drop" else "fail"


def model_of(model: str | Model | None, price: str | None = None, kv_memory: str | None = None) -> Model:
    """The model asked for, else the default one; with a price, what its tokens cost in a budget of usd; a local one with
    that much memory for keys and values.
    """
    if model is None or isinstance(model, str):
        limits = (
            Price.parse(price) if price is not None else None,
            bytes_of(kv_memory) if kv_memory is not None else None,
        )
        return default_model(*limits) if model is None else model_named(model, *limits)
    return checked("model", model, "extend")


def verifier_of(verifier: str | Verifier | None, task: Task, needed: bool) -> Verifier | None:
    """The verifier asked for; else, where one is needed, the shipped one for the tasks that it knows."""
    if isinstance(verifier, str):
        return verifiers.parse(verifier)
    if verifier is None and needed and task.name in GENERATED:
        return verifiers.parse("process")
    return verifier and checked("verifier", verifier, "grade")


def text_problem(text: str, task: str | Task | None) -> tuple[Task, Problem]:
    """A problem of the user's own words. A text in the form of a generated task is one of its problems."""
    if not text.strip():
        raise UsageError("the problem is empty")
    as_task = text.rstrip("\n") + "\n"
    if task is None:
        task = next((name for name in GENERATED if GENERATED[name].reads(as_task)), "text")
    kind = task_named(task) if isinstance(task, str) else checked("task", task, "prompt")
    if kind.name not in GENERATED:
        return kind, Problem(text)
    check_form(kind, as_task)
    return kind, Problem(as_task)


def check_form(task: Task, text: str) -> None:
    """Refuse a text that is no problem of its generated task."""
    generated = GENERATED.get(task.name)
    if generated is not None and not generated.reads(text):
        example = generated.problem(generated.middle, 0).text.strip()
        shell = "$" if "\n" in example else ""  # which reads several lines in $'...' alone
        raise UsageError(f"this is no {task.name} problem; they look like: {shell}{example!r}")


def generated_problem(task: str, difficulty: int | None, index: int) -> tuple[Task, Problem]:
    """The problem `index` of the test split of a generated task."""
    kind = generated_task(task)
    if index < 0:
        raise UsageError(f"problems are counted from 0, so there is no problem {index}")
    return kind, kind.problem(kind.middle if difficulty is None else difficulty, index)


def by_of(
    model: str | Model | None, task: Task, verifier: str | Verifier | None, wanted: Sequence[Method | Selection]
) -> By:
    """The model, task and verifier for methods and selections that need what these need."""
    needed = any({"process", "grades"} & part.needs for part in wanted)
    frozen = model_of(model)
    logprobs = any("logprobs" in part.needs and isinstance(part, Tallying) for part in wanted)
    return By(frozen, task, verifier_of(verifier, task, needed), logprobs=logprobs)


def assemble(
    task: Task,
    model: str | Model | None,
    method: str | Method,
    verifier: str | Verifier | None,
    select: str | Selection | None,
    budget: str | Budget | None,
    failures: str = "fail",
) -> Parts:
    """The parts of one solve. Samples are graded as they are drawn, so that the budget pays for both or for neither."""
    program = methods.parse(method) if isinstance(method, str) else checked("method", method, "needs")
    default = "majority" if verifier is None else "weighted"
    rule = default if select is None else select
    selection = selections.parse(rule) if isinstance(rule, str) else checked("selection", rule, "needs")
    limits = budget_of(budget)
    by = by_of(model, task, verifier, [program, selection])
    early = wants_grades(selection) and isinstance(program, Sample) and by.verifier is not None
    return Parts(replace(by, grade_drafts=early), program, selection, limits, failures_of(failures))
