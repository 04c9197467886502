"""The task's own checker."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.tasks.classes import aside
from forethought.tasks.protocol import Task
from forethought.verifiers.protocol import verifiers

ONE_CALL = Cost(verifier_calls=1)


def check(draft: Draft, problem: Problem, task: Task) -> tuple[str | None, bool | None]:
    """A finished draft's answer, and whether it is right. An unreadable answer is wrong, an unfinished draft unknown."""
    if not draft.finished:
        return None, None
    answer = task.answer(draft.text, problem)
    return answer, False if answer is None else task.correct(answer, problem)


@verifiers.register("exact")
@dataclass(frozen=True)
class Exact:
    """The task's checker: 1 if the answer is right, 0 if not, unknown for unfinished drafts.

    An oracle where the checker needs the reference; a verifier that a user has too where it does not (countdown).
    """

    name = "exact"
    process = False

    def oracle(self, task: Task) -> bool:
        return not task.checkable

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        _, right = await aside(task, partial(check, draft, problem, task))
        return (UNKNOWN if right is None else Grade(float(right))), ONE_CALL
