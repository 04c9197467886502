"""Grading a round of drafts: one fan-out, each draft's cost and chance at its own place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from forethought.core.call import Data, bought
from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.errors import ModelError
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Call, Scope
from forethought.tasks.protocol import Task
from forethought.verifiers.protocol import Verifier


@dataclass(frozen=True, slots=True)
class Grading:
    """A kernel that grades a draft; the grade lives on the draft under the verifier's name."""

    verifier: Verifier
    problem: Problem
    task: Task

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self.verifier.bound(particle.state, self.problem, self.task)

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        draft = particle.state

        async def act(call: Call) -> tuple[Grade, Cost]:
            told, cost = await self.verifier.grade(draft, self.problem, self.task, call)
            call.progress(cost)
            return in_floats(told, name, cost), cost

        name = str(self.verifier)
        grade = await bought(at, "grade", {"verifier": name}, lambda: self.bound(particle), act, to_json, from_json)
        return Particle(draft.graded(name, grade), particle.logw, particle.done)


def in_floats(told: Grade, name: str, cost: Cost) -> Grade:
    """The grade as methods compute with it and records keep it. Raises ModelError where an entry is no finite number."""
    try:
        value = None if told.value is None else finite(told.value)
        return Grade(value, tuple(map(finite, told.steps)), cost)
    except (TypeError, ValueError, OverflowError):
        said = " ".join(f"{told.value!r} {told.steps!r}".split())[:80]
        raise ModelError(f"the verifier {name} gave a grade that is no number: {said}") from None


def finite(number: float) -> float:
    """A float of any kind of number, such as numpy's. Raises TypeError, ValueError or OverflowError for anything else."""
    if not math.isfinite(number):
        raise ValueError
    return float(number)


def to_json(grade: Grade) -> Data:
    return {"value": grade.value, "steps": grade.steps}


def from_json(data: Data, cost: Cost) -> Grade:
    return Grade(data["value"], tuple(data["steps"]), cost)


async def grade_all(
    pop: Population[Draft], verifier: Verifier, problem: Problem, task: Task, at: Scope
) -> list[Particle[Draft]]:
    """Grade every living draft that has no grade yet, ended or not, in one round. Keeps the measure."""
    key = str(verifier)
    opened = [p if p.done == (key in p.state.grades) else Particle(p.state, p.logw, not p.done) for p in pop]
    try:
        graded: Sequence[Particle[Draft]] = await each(opened, Grading(verifier, problem, task), at, failures="fail")
    except BaseException:  # also when a deadline cancels it
        at.keep(closed(pop, at.kept or pop))
        raise
    return closed(pop, graded)


def closed(before: Population[Draft], after: Population[Draft]) -> list[Particle[Draft]]:
    """The graded drafts, ended where they were before."""
    pairs = zip(before, after, strict=True)
    return [new if new.done == old.done else Particle(new.state, new.logw, old.done) for old, new in pairs]


def grade_of(draft: Draft, verifier: Verifier) -> Grade:
    return draft.grades.get(str(verifier), UNKNOWN)
