"""Best of the frequent answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.basic import by_reward
from forethought.selection.protocol import Need, Verdict, selections
from forethought.selection.votes import Tally, Votes, graded, polled, verdict_of
from forethought.verifiers.protocol import Aggregation


@selections.register("best-of-majority")
@dataclass(frozen=True)
class BestOfMajority:
    """The best-graded of the answers that have a share of at least `alpha` of the votes; only their drafts are graded.

    An answer's grade is the highest of its drafts', or their mean, by `reward`. Where no answer has that share, the most
    frequent ones are kept. The first k of the ranked answers are the k that the paper submits. Probabilities are the kept
    answers' grades, normalised. `alpha=0` is `best`; with `alpha=1` it is `majority`, whose ties the grades break.
    Constants: the theory's alpha is 3/4 of the model's probability of the right answer, which nobody knows; 0.003 to 0.015
    are reported for 500 to 2,000 samples; 0.1 for a few dozen is ours, as is the mean.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = "Di et al. 2025, arXiv:2510.03199 (Best-of-Majority)"

    alpha: float = 0.1
    reward: Literal["max", "mean"] = "max"
    steps: Aggregation = "last"

    def __post_init__(self) -> None:
        require(0 <= self.alpha <= 1, f"best-of-majority: alpha is a share between 0 and 1, not {self.alpha}")

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = await polled(pop, problem, by, at)
        if not votes.classes:
            return Verdict()
        kept = votes.readable[0] & self._frequent(votes)[0, votes.answer[0]]
        wanted = {id(votes.pool.drafts[i]) for i in np.flatnonzero(kept).tolist()}
        asked = [p for p in pop if id(p.state) in wanted]
        told = await graded(asked, problem, by, at)
        after = {id(old.state): new.state for old, new in zip(asked, told, strict=True)}
        drafts = [after.get(id(draft), draft) for draft in votes.pool.drafts]
        votes = replace(votes, pool=replace(votes.pool, drafts=drafts))
        return verdict_of(self.tally(votes), votes)

    def _frequent(self, votes: Votes) -> NDArray[np.bool_]:
        """(rows, classes): the answers that are kept."""
        share = votes.sums(votes.weight)[:, :-1]
        least = np.minimum(self.alpha, share.max(1, keepdims=True, initial=0.0))
        return np.asarray(votes.present & (share >= least * (1 - 1e-12)))

    def tally(self, votes: Votes) -> Tally:
        grades = votes.grade(self.steps)
        voice = np.where(np.isnan(grades), -np.inf, grades)
        rewards = votes.tops(voice, -np.inf)[:, :-1]
        if self.reward == "mean":
            known = votes.sums((~np.isnan(grades)).astype(float))[:, :-1]
            sums = votes.sums(np.nan_to_num(grades))[:, :-1]
            rewards = np.divide(sums, known, out=rewards, where=known > 0)
        return by_reward(rewards, voice, self._frequent(votes))
