"""What a verifier is: anything that gives drafts grades."""

from __future__ import annotations

from typing import Literal, Protocol

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import Registry
from forethought.core.scope import Call
from forethought.tasks.protocol import Task

Aggregation = Literal["last", "min", "mean", "product"]


class Verifier(Protocol):
    """Grades one draft a call. Drafts that are graded together meet in the engine, where they are one batch.

    A grade is finite, in [0, 1] where it is a probability, and unknown where the verifier cannot tell. Its cost books
    `verifier_calls`, `verifier_tokens` (input read, less what the verifier itself has read of the draft before, plus any
    output) and `usd` only.
    """

    @property
    def name(self) -> str: ...

    @property
    def process(self) -> bool:
        """Whether it can grade unfinished drafts, step by step."""
        ...

    def oracle(self, task: Task) -> bool:
        """Whether it looks at the reference, which no user has: never a default, and marked wherever it is reported."""
        ...

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        """The most that grading this draft can cost."""
        ...

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]: ...


verifiers: Registry[Verifier] = Registry("verifier")


def nearest(draft: Draft, verifier: str) -> Draft | None:
    """The nearest beginning of the draft that this verifier (by its spelling) has graded; None if it has graded none."""
    return next((d for d in draft.lineage() if d is not draft and verifier in d.grades), None)


def aggregate(grade: Grade, how: Aggregation) -> float | None:
    """One number for a draft: its last step's grade, or the least, mean or product over its steps. None if unknown."""
    steps = grade.steps
    if grade.value is None or not steps or how == "last":
        return grade.value
    if how == "min":
        return min(steps)
    if how == "mean":
        return sum(steps) / len(steps)
    product = 1.0
    for step in steps:
        product *= step
    return product
