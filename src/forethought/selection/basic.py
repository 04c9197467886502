"""The basic selections: first, majority, weighted, best."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import ClassVar, Literal

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.protocol import Need, Ranked, Verdict, selections
from forethought.selection.votes import Ballot, ballots, graded, tally
from forethought.verifiers.protocol import Aggregation


@selections.register("first")
@dataclass(frozen=True)
class First:
    """The first finished draft that can be read. Its probability is its share of the votes."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "folklore"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = ballots(pop, problem, by)
        chosen = next((vote for vote in votes if vote.answer is not None), None)
        if chosen is None or chosen.answer is None:
            return Verdict()
        share = math.fsum(vote.weight for vote in votes if vote.answer == chosen.answer)
        return Verdict((Ranked(chosen.answer, share),), chosen.draft, 1 - share)


@selections.register("majority")
@dataclass(frozen=True)
class Majority:
    """Self-consistency: the answer with most posterior weight. Unreadable answers do not vote; ties share the credit."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Wang et al. 2022, arXiv:2203.11171"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return tally(ballots(pop, problem, by), lambda vote: vote.weight, combine=operator.add)


@selections.register("weighted")
@dataclass(frozen=True)
class Weighted:
    """Weighted voting: each draft votes with posterior weight times grade; equal grades make it `majority`.

    `steps` says how a process verifier's grades become one number, `combine` whether votes for one answer add up or the
    best one counts. Drafts without a known grade have no vote.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = (
        "Lightman et al. 2023, arXiv:2305.20050; the six PRM votes of Liu et al. 2025, arXiv:2502.06703"
    )

    steps: Aggregation = "last"
    combine: Literal["sum", "max"] = "sum"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = ballots(await graded(pop, problem, by, at), problem, by)

        def score(vote: Ballot) -> float:
            return vote.weight * max(by.value(vote.draft, self.steps) or 0.0, 0.0)

        return tally(votes, score, combine=operator.add if self.combine == "sum" else max)


@selections.register("best")
@dataclass(frozen=True)
class Best:
    """Best-of-N: the draft with the highest grade, ties to the lower index; unknown grades rank below all.

    Weights are not looked at. Probabilities are the answers' highest grades, normalised.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = "Cobbe et al. 2021, arXiv:2110.14168"

    steps: Aggregation = "last"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = [v for v in ballots(await graded(pop, problem, by, at), problem, by) if v.answer is not None]
        if not votes:
            return Verdict()

        def grade(vote: Ballot) -> float:
            value = by.value(vote.draft, self.steps)
            return -math.inf if value is None else value

        tops: dict[str, float] = {}
        for vote in sorted(votes, key=grade, reverse=True):
            tops.setdefault(vote.answer or "", max(grade(vote), 0.0))
        chosen = max(votes, key=grade)
        total = math.fsum(tops.values())
        shares = {a: g / total for a, g in tops.items()} if total else {a: 1 / len(tops) for a in tops}
        return Verdict(tuple(Ranked(a, p) for a, p in shares.items()), chosen.draft, 0.0)
