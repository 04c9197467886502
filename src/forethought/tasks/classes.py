"""Classes of equal answers: union-find over what the task holds equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

from forethought.core.errors import ForethoughtError
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.sandbox.turns import Turns
from forethought.sandbox.worker import SIZE
from forethought.tasks.protocol import Task

T = TypeVar("T")
TURNS = Turns("comparisons", SIZE)  # more would wait for the workers of an equality


@runtime_checkable
class Equating(Protocol):
    """A task with a further ability: to tell that two canonical answers that differ as strings mean the same.

    That may take its time, and so may its `correct`: both are asked in threads.
    """

    def same(self, one: str, other: str, problem: Problem) -> bool: ...


async def aside(task: Task, compare: Callable[[], T]) -> T:
    """What `compare` comes to. A task's own equality may take its time, and nobody else must wait for it: in a thread."""
    if isinstance(task, Equating):
        return await TURNS(compare)
    return compare()


def classes_of(answers: Sequence[str], task: Task, problem: Problem) -> dict[str, str]:
    """Each distinct answer with the first of its class. Equal strings are equal; the rest is for the task to say.

    Equality need not be transitive as a task tells it, so classes are joined by any pair that is equal (union-find), and
    pairs already joined are not asked again.
    """
    distinct = list(dict.fromkeys(answers))
    parent = dict(zip(distinct, distinct, strict=True))
    if not isinstance(task, Equating):
        return parent

    def root(answer: str) -> str:
        while parent[answer] != answer:
            parent[answer] = answer = parent[parent[answer]]
        return answer

    place = {answer: i for i, answer in enumerate(distinct)}
    for i, one in enumerate(distinct):
        for other in distinct[:i]:
            if root(one) != root(other) and task.same(other, one, problem):
                first, later = sorted((root(one), root(other)), key=place.__getitem__)
                parent[later] = first
    return {answer: root(answer) for answer in distinct}


async def merged(said: Sequence[str | None], task: Task, problem: Problem, at: Scope) -> list[str | None]:
    """Answers in order, each by the first that the task holds equal to it; None, for a draft that says nothing, stays.

    An equality of the task's own may hang on how long it took (mathematics), so what was found is recorded: a run that goes
    on takes it as it was. Raises ForethoughtError if other answers are recorded here.
    """
    if not isinstance(task, Equating):
        return list(said)
    known = [answer for answer in said if answer is not None]
    earlier = at.recorded("equal")
    first = earlier.data["first"] if earlier else await aside(task, partial(classes_of, known, task, problem))
    at.note("equal", {"first": first})
    if first.keys() != set(known):
        place = ".".join(map(str, at.here))
        raise ForethoughtError(f"the record at {place} is of other answers: the program has changed, start a new run")
    return [None if answer is None else first[answer] for answer in said]
