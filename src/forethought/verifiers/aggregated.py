"""A process verifier whose number for a draft is taken from all its steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.tasks.protocol import Task
from forethought.verifiers.around import Around
from forethought.verifiers.protocol import Aggregation, aggregate, verifiers


@verifiers.register("aggregated")
@dataclass(frozen=True)
class Aggregated(Around):
    """The verifier `of` with the least, the mean or the product of its grades of the steps as the draft's number.

    So a search or a filter goes by it, as a selection does by its own `steps`. The grades of the steps stay as they are;
    a draft whose steps have none keeps the number that `of` gives it.
    """

    name = "aggregated"
    steps: Aggregation = "min"
    of: str = "process"

    def __post_init__(self) -> None:
        verifiers.parse(self.of)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        grade, cost = await self.asked(draft, problem, task, call)
        return replace(grade, value=aggregate(grade, self.steps)), cost
