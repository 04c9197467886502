from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods


@methods.register("greedy")
@dataclass(frozen=True)
class Greedy:
    """One draft at temperature 0: the most likely token at every place. A reference, not a contender.

    Law: greedy; a point mass on the mode of each token, whatever the model's distribution.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "folklore"

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        return await each([Particle(ROOT)], by.draft(problem, temperature=0.0), at)
