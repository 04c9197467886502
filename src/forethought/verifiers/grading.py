"""Grading a round of drafts: one fan-out, each draft's cost and chance at its own place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from zlib import crc32

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
        asked = {"verifier": name, "of": crc32(draft.text.encode())}
        grade = await bought(at, "grade", asked, lambda: self.bound(particle), act, to_json, from_json)
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
    """Grade every living draft that has no grade yet, ended or not, in one round. Keeps the measure.

    A draft whose grading fails ends the run, or is dropped, by the run's policy: as one whose writing fails.
    """
    key = str(verifier)
    held = [Particle(p, p.logw, key in p.state.grades) for p in pop]
    try:
        graded = await each(held, Round(Grading(verifier, problem, task)), at)
    except BaseException:  # also when a deadline cancels it
        at.keep([p.state for p in at.kept or ()])
        raise
    return [p.state for p in graded]


@dataclass(frozen=True, slots=True)
class Round:
    """A kernel that grades what it holds: a particle with its draft, which may have ended."""

    grading: Grading

    def bound(self, held: Particle[Particle[Draft]]) -> Cost:
        return self.grading.bound(held.state)

    async def __call__(self, held: Particle[Particle[Draft]], at: Scope) -> Particle[Particle[Draft]]:
        return held.moved(await self.grading(held.state, at), done=True)


def grade_of(draft: Draft, verifier: Verifier) -> Grade:
    return draft.grades.get(str(verifier), UNKNOWN)
