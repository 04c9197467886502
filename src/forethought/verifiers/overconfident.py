"""A process verifier that is too sure of itself early in a draft, for studies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Call
from forethought.tasks.protocol import Task
from forethought.verifiers.around import Around, written_steps
from forethought.verifiers.protocol import verifiers

EDGE = 1e-9  # grades nearer to 0 or 1 have no finite log-odds


@verifiers.register("overconfident")
@dataclass(frozen=True)
class Overconfident(Around):
    """The verifier `of` with its log-odds multiplied: by `sharpen` at the first step, falling to 1 after `until` steps.

    What it prefers stays the same, and finished drafts get the grade of `of` itself: only early confidence is false. So
    a filter's target is the same under both, and what differs is how soon particles are given up. The `steps` of a finished
    draft are those of `of` where it reads all of them anew (`process`); where it goes on from what it has said
    (`reward-token`, `self-eval`), they are what was told on the way.
    """

    name = "overconfident"
    of: str = "process"
    sharpen: float = 5.0
    until: int = 5

    def __post_init__(self) -> None:
        at_least(self, sharpen=0, until=1)
        verifiers.parse(self.of)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        grade, cost = await self.asked(draft, problem, task, call)
        if grade.value is None or draft.finish is not None:
            return grade, cost
        steps = [self._sharpened(value, i + 1) for i, value in enumerate(grade.steps)]
        value = self._sharpened(grade.value, len(written_steps(draft, task)))
        return self.changed(draft, grade, value, steps), cost

    def _sharpened(self, value: float, step: int) -> float:
        factor = 1 + (self.sharpen - 1) * max(0.0, 1 - (step - 1) / self.until)
        clipped = min(max(value, EDGE), 1 - EDGE)
        return 1 / (1 + math.exp(-factor * (math.log(clipped) - math.log1p(-clipped))))
