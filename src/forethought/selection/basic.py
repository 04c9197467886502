"""The basic selections: first, majority, weighted, best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.protocol import Need, Verdict, selections
from forethought.selection.votes import Numbers, Tally, Votes, counted, voted
from forethought.verifiers.protocol import Aggregation


@selections.register("first")
@dataclass(frozen=True)
class First:
    """The first finished draft that can be read. Its probability is its share of the votes."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "folklore"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        first = votes.readable.argmax(1)[:, None]
        only = np.take_along_axis(votes.answer, first, 1) == np.arange(votes.classes)
        share = votes.sums(votes.weight)[:, :-1]
        voice = -np.arange(votes.rows.shape[1], dtype=float)
        return Tally(share * only, np.where(only, share, -np.inf), np.broadcast_to(voice, votes.rows.shape))


@selections.register("majority")
@dataclass(frozen=True)
class Majority:
    """Self-consistency: the answer with most posterior weight. Unreadable answers do not vote; ties share the credit."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Wang et al. 2022, arXiv:2203.11171"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        return voted(votes, votes.weight)


@selections.register("weighted")
@dataclass(frozen=True)
class Weighted:
    """Weighted voting: each draft votes with posterior weight times grade; equal grades make it `majority`.

    `steps` says how a process verifier's grades become one number, `combine` whether votes for one answer add up or the
    best one counts: with last, min and mean these are the six PRM votes. Drafts without a known grade have no vote, nor
    have those whose grade is not above 0.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = (
        "Lightman et al. 2023, arXiv:2305.20050; the six PRM votes of Liu et al. 2025, arXiv:2502.06703"
    )

    steps: Aggregation = "last"
    combine: Literal["sum", "max"] = "sum"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        grades = np.nan_to_num(votes.grade(self.steps)).clip(0.0)
        return voted(votes, votes.weight * grades, self.combine)


@selections.register("best")
@dataclass(frozen=True)
class Best:
    """Best-of-N: the draft with the highest grade, ties to the lower index; unknown grades rank below all.

    Weights are not looked at. Probabilities are the answers' highest grades, normalised; where grades are negative, and so
    no probabilities, those of a softmax.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = "Cobbe et al. 2021, arXiv:2110.14168"

    steps: Aggregation = "last"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        return ranked(votes, votes.grade(self.steps), votes.present)


def ranked(votes: Votes, grades: Numbers, allowed: NDArray[np.bool_]) -> Tally:
    """The answers that are allowed, by the highest grade of their drafts; NaN is unknown and ranks below all."""
    known = np.where(np.isnan(grades), -np.inf, grades)
    return by_reward(votes.tops(known, -np.inf)[:, :-1], known, allowed)


def by_reward(rewards: Numbers, voice: Numbers, allowed: NDArray[np.bool_]) -> Tally:
    """The answers that are allowed, by their rewards; -inf is unknown."""
    known = allowed & (rewards > -np.inf)
    share = np.where(known, rewards, 0.0)
    signed = share.min(1, initial=0.0) < 0
    if signed.any():
        logs = np.where(known, rewards, -np.inf)[signed]
        share[signed] = np.exp(logs - logs.max(1, keepdims=True))
    none = share.sum(1, keepdims=True) <= 0
    share = np.where(none, np.where(known.any(1, keepdims=True), known, allowed), share)
    total = share.sum(1, keepdims=True)
    share = np.divide(share, total, out=np.zeros_like(share, dtype=float), where=total > 0)
    lowest = np.finfo(float).min  # unknown, but in the verdict
    return Tally(share, np.where(allowed, np.maximum(rewards, lowest), -np.inf), voice)
