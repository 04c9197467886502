"""Two drafts against each other: one comparison, bought at a place like any grade."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from forethought.core.call import Data, bought
from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope
from forethought.tasks.protocol import Task


@runtime_checkable
class Comparer(Protocol):
    """A verifier that can also compare, such as `judge`."""

    def compare_bound(self, first: Draft, second: Draft, problem: Problem, task: Task) -> Cost: ...

    async def compare(
        self, first: Draft, second: Draft, problem: Problem, task: Task, call: Call
    ) -> tuple[float | None, Cost]: ...


async def compared(first: Draft, second: Draft, by: Comparer, problem: Problem, task: Task, at: Scope) -> float | None:
    """How surely the first draft is the better one, in [0, 1]; None if the verifier's word cannot be read.

    Raises BudgetEnded if it does not fit.
    """

    def bound() -> Cost:
        return by.compare_bound(first, second, problem, task)

    async def act(call: Call) -> tuple[float | None, Cost]:
        return await by.compare(first, second, problem, task, call)

    return await bought(at, "compare", {"verifier": str(by)}, bound, act, to_json, from_json)


def to_json(share: float | None) -> Data:
    return {"share": share}


def from_json(data: Data, cost: Cost) -> float | None:
    share = data["share"]
    return None if share is None else float(share)
