"""Ballots: what finished drafts say, and how their votes add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded
from forethought.core.population import Particle, Population, posterior
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.protocol import Ranked, Verdict


@dataclass(frozen=True, slots=True)
class Ballot:
    """One finished draft with its posterior weight and its canonical answer, None if it cannot be read."""

    draft: Draft
    weight: float
    answer: str | None


def ballots(pop: Population[Draft], problem: Problem, by: By) -> list[Ballot]:
    """The finished, living drafts in index order. Equal drafts (copies of one) are read once."""
    finished = [p for p in pop if p.state.finished]
    read: dict[int, str | None] = {}
    for p in finished:
        if id(p.state) not in read:
            read[id(p.state)] = by.task.answer(p.state.text, problem)
    weights = posterior(finished).tolist() if finished else []
    return [Ballot(p.state, w, read[id(p.state)]) for p, w in zip(finished, weights, strict=True) if w > 0]


async def graded(pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Population[Draft]:
    """The finished drafts with grades, as far as the budget goes; the others stay ungraded, which is unknown."""
    finished: list[Particle[Draft]] = [p for p in pop if p.state.finished]
    with at.timed():
        try:
            return await by.grade(finished, problem, at)
        except BudgetEnded:
            pass
    at.run.short = True
    return at.kept or finished


def tally(
    votes: Sequence[Ballot], score: Callable[[Ballot], float], *, combine: Callable[[float, float], float]
) -> Verdict:
    """Rank answers by their combined scores; ties keep the order of their first ballots.

    A ballot that cannot be read adds its score to the abstained part only. The best-scored ballot of the winning answer is
    the chosen draft.
    """
    classes: dict[str, float] = {}
    speakers: dict[str, tuple[float, Draft]] = {}
    abstained = 0.0
    for vote in votes:
        value = score(vote)
        if vote.answer is None:
            abstained = combine(abstained, value)
        else:
            classes[vote.answer] = combine(classes.get(vote.answer, 0.0), value)
            if vote.answer not in speakers or value > speakers[vote.answer][0]:
                speakers[vote.answer] = (value, vote.draft)
    total = sum(classes.values()) + abstained
    if total <= 0 or not classes:
        return Verdict()
    order = sorted(classes, key=lambda answer: -classes[answer])
    ranked = tuple(Ranked(answer, classes[answer] / total) for answer in order)
    return Verdict(ranked, speakers[order[0]][1], abstained / total)
