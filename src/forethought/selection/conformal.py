"""Sets of answers with a coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.calibrated import counting
from forethought.selection.protocol import Known, Need, Verdict, selections
from forethought.selection.votes import Tally, Votes, counted


@selections.register("conformal")
@dataclass(frozen=True)
class Conformal:
    """A set of answers that holds the right one with a chance of at least `coverage`, by split conformal prediction.

    The set is all answers whose share of the votes, as the selection `of` counts them, is at least 1 - `threshold`; the
    verdict ranks it, and what was cast for others goes to the abstained part. `fit` puts the threshold at the
    ceil((m + 1) * coverage)-th smallest of 1 - share of the right answer over m problems: then a further problem of the
    same kind is covered with that chance. Where the right answer is too seldom among the drafts no set of them can be, and
    `fit` says so. `threshold=1`, before any fit, keeps all answers: it is the selection `of`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Papadopoulos et al. 2002; Vovk et al. 2005 (split conformal prediction)"

    coverage: float = 0.9
    threshold: float = 1.0
    of: str = "majority"

    def __post_init__(self) -> None:
        require(0 < self.coverage < 1, f"conformal: coverage lies between 0 and 1, not {self.coverage}")
        require(0 <= self.threshold <= 1, f"conformal: threshold lies between 0 and 1, not {self.threshold}")
        object.__setattr__(self, "needs", counting(self.of, "conformal").needs)

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        tally = counting(self.of, "conformal").tally(votes)
        held = tally.share >= 1 - self.threshold - 1e-12
        return Tally(np.where(held, tally.share, 0.0), np.where(held, tally.rank, -np.inf), tally.voice)

    def fit(self, known: Sequence[Known]) -> Self:
        """The threshold by split calibration."""
        of, strange = counting(self.of, "conformal"), []
        for votes, correct in known:
            shares = np.where(correct, of.tally(votes).share, 0.0).max(1, initial=0.0)
            strange += (1 - shares).tolist()
        place = math.ceil((len(strange) + 1) * self.coverage)
        found = sorted(strange)[place - 1] if place <= len(strange) else 1.0
        if found >= 1:
            seen = sum(s < 1 for s in strange)
            raise UsageError(
                f"conformal: a coverage of {self.coverage:g} cannot be had: of {len(strange)} problems {seen} have a vote "
                f"for the right answer, and {place} are needed"
            )
        return replace(self, threshold=min(1.0, math.ceil(found * 1e6) / 1e6))
