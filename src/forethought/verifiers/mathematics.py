"""Mathematical equality with the reference."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Call
from forethought.sandbox.equality import equal, workers
from forethought.tasks.protocol import Task
from forethought.tasks.text import boxed
from forethought.verifiers.exact import ONE_CALL
from forethought.verifiers.protocol import verifiers


@verifiers.register("math")
@dataclass(frozen=True)
class Mathematics:
    r"""1 if the draft's answer is mathematically equal to the reference, 0 if not: `\frac{1}{2}` is 0.5.

    Unknown for unfinished drafts, without a reference, and where `seconds` are not enough to tell. The answer is what the
    last `\boxed{}` holds, else what the task reads. By math-verify, in worker processes that are killed when they hang.
    """

    name = "math"
    process = False
    seconds: float = 3.0

    def __post_init__(self) -> None:
        require(self.seconds > 0, f"math: seconds must be above 0, not {self.seconds}")

    def load(self) -> None:
        """Raises UsageError where math-verify is not installed."""
        workers()

    def oracle(self, task: Task) -> bool:
        return True

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        if not draft.finished or problem.reference is None:
            return UNKNOWN, ONE_CALL
        answer = boxed(draft.text) or task.answer(draft.text, problem)
        if answer is None:
            return Grade(0.0), ONE_CALL
        right = await equal(str(problem.reference), answer, self.seconds)
        return (UNKNOWN if right is None else Grade(float(right))), ONE_CALL
