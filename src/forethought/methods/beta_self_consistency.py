from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import answers, votes, windows
from forethought.methods.protocol import Law, Need, methods


def doubt(first: int, second: int) -> float:
    """The posterior chance that the answer with `second` votes is likelier than that with `first`, of these two alone.

    With a uniform prior that is P(p < 1/2) for p ~ Beta(first + 1, second + 1): a binomial tail, exact in whole numbers.
    """
    tosses = first + second + 1
    return sum(math.comb(tosses, heads) for heads in range(first + 1, tosses + 1)) / (1 << tosses)


@methods.register("beta-self-consistency")
@dataclass(frozen=True)
class BetaSelfConsistency:
    """Self-consistency that stops when the leading answer is safe (Adaptive-Consistency, its Beta rule).

    After each window of drafts, stop if the posterior chance that the leading answer is likelier than the runner-up is at
    least `confidence`. Drafts that cannot be read do not vote. `confidence=1` is `sample(n)`.
    Law: greedy; drafts of weight 1 whose number N depends on what they say. Their expected measure is the model's times
    E[N] (Wald), but shares lean towards the leader.
    Constants: confidence 0.95, up to 40 drafts, one at a time are published. Windows of 4 are ours, so that a batch is
    used: with 4 drafts of one mind the chance is 31/32, with 3 it is 15/16. n 16 and temperature 0.8 are the house's.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Aggarwal et al. 2023, arXiv:2305.11860 (Adaptive-Consistency, Beta stopping criterion)"

    n: int = 16
    confidence: float = 0.95
    window: int = 4
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, window=1, temperature=0)
        require(
            0 < self.confidence <= 1, f"beta-self-consistency: confidence lies between 0 and 1, not {self.confidence}"
        )

    def saved(self, made: Population[Draft]) -> int:
        return self.n - len(made)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        async def safe(pop: Population[Draft], _: Population[Draft]) -> bool:
            counts = [count for _, count in votes(await answers(pop, problem, by, at))]
            return bool(counts) and doubt(counts[0], counts[1] if counts[1:] else 0) <= 1 - self.confidence

        draft, window = by.draft(problem, self.temperature), [Particle(ROOT)] * self.window
        return await windows(draft, window, self.n, at, safe)
