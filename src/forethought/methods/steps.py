"""What step searches share: equal steps are one step, graded once; siblings; the order by grades."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

from forethought.core.draft import Draft
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By


def key(draft: Draft) -> Hashable:
    """Equal for equal steps of one draft."""
    return draft.parent, draft.new, draft.finish


def different(pop: Population[Draft]) -> list[Particle[Draft]]:
    """The first particle of each different step, in order."""
    found: dict[Hashable, Particle[Draft]] = {}
    for p in pop:
        found.setdefault(key(p.state), p)
    return list(found.values())


async def grade_different(pop: Population[Draft], by: By, problem: Problem, at: Scope) -> list[Particle[Draft]]:
    """Grade what has no grade yet; steps of one draft that read the same become one draft, which is graded once.

    Every particle keeps its place and weight, so the measure over texts stays. If a grading fails and is dropped by the run's
    policy, all that share it are.
    """
    try:
        graded = await by.grade(different(pop), problem, at)
    except BaseException:  # also when a deadline cancels it
        at.keep(shared(pop, at.kept or ()))
        raise
    return shared(pop, graded)


def shared(pop: Population[Draft], graded: Population[Draft]) -> list[Particle[Draft]]:
    """`pop` with the drafts of `graded` in place of equal ones; without those that have none there, which were dropped."""
    known = {key(p.state): p.state for p in graded}
    return [Particle(known[key(p.state)], p.logw, p.done) for p in pop if key(p.state) in known]


def families(pop: Population[Draft]) -> list[list[Particle[Draft]]]:
    """The population by parents, in order."""
    found: dict[Draft | None, list[Particle[Draft]]] = {}
    for p in pop:
        found.setdefault(p.state.parent, []).append(p)
    return list(found.values())


def by_grade(by: By) -> Callable[[Particle[Draft]], float]:
    """A key for `prune`: the draft's grade; an unknown one ranks below all."""

    def rank(particle: Particle[Draft]) -> float:
        value = by.value(particle.state)
        return -math.inf if value is None else value

    return rank


def after(pop: Population[Draft], by: By) -> Callable[[Particle[Draft]], float]:
    """A key for `prune` after a round that began with `pop`: who had ended keeps its place; the others by their grades."""
    settled, rank = {p.state for p in pop if p.ended}, by_grade(by)
    return lambda particle: math.inf if particle.state in settled else rank(particle)


def answers_first(pop: Population[Draft]) -> list[Particle[Draft]]:
    """The finished drafts, or all if none is: what is cut off or unfinished never votes."""
    return [p for p in pop if p.state.finished] or list(pop)
