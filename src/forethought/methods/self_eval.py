"""Self-evaluation: the model's own word on whether a draft's last step is correct."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.models.extend import extend
from forethought.models.protocol import Completion, Request

SELF = "self-evaluation"
QUESTION = """{task}

A solution, as far as it goes:
{text}

Is its last step, "{step}", correct?
(A) Correct
(B) Incorrect
Answer with A or B only."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A kernel that asks the model for one token and puts its probability of A on the draft, as a grade named SELF.

    The probability is not renormalised over A and B (as in Xie et al.'s code); it is unknown where neither A
    nor B is among the five likeliest tokens. The call is one of the model's, not of a verifier.
    """

    by: By
    problem: Problem

    def request(self, draft: Draft) -> Request:
        *before, last = self.by.task.prompt(self.problem)
        content = QUESTION.format(task=last["content"], text=draft.text, step=draft.new.strip())
        return Request((*before, {"role": "user", "content": content}), max_tokens=1, temperature=0.0, logprobs=5)

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self.by.model.bound(self.request(particle.state))

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        told = await extend(self.by.model, self.request(particle.state), at)
        grades = MappingProxyType({**particle.state.grades, SELF: Grade(said(told), cost=told.cost)})
        return particle.moved(replace(particle.state, grades=grades), done=particle.done)


def said(told: Completion) -> float | None:
    """The probability that the first token reads A; None if neither A nor B is among those told."""
    chances = {"A": 0.0, "B": 0.0}
    for piece, value in (told.top[0] if told.top else {}).items():
        if piece.strip(" (") in chances:
            chances[piece.strip(" (")] += math.exp(value)
    return min(chances["A"], 1.0) if any(chances.values()) else None


async def evaluate(pop: Population[Draft], by: By, problem: Problem, at: Scope) -> list[Particle[Draft]]:
    """Judge the last step of every draft that has no verdict yet: by a process verifier if there is one, else by the model."""
    if by.verifier is not None and by.verifier.process:
        return await by.grade(pop, problem, at)
    opened = [Particle(p.state, p.logw, done=SELF in p.state.grades or not p.state.new) for p in pop]
    judged = await each(opened, Probe(by, problem), at)
    return [Particle(p.state, p.logw, done=p.state.finish is not None) for p in judged]


def confidence(draft: Draft, by: By) -> float | None:
    """The chance that the draft's last step is correct, as far as it is known."""
    if by.verifier is not None and by.verifier.process:
        return by.value(draft)
    return draft.grades[SELF].value if SELF in draft.grades else None
