from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import branch, race
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import readable
from forethought.methods.protocol import Law, Need, methods


@methods.register("first-finish")
@dataclass(frozen=True)
class FirstFinish:
    """First Finish Search: start `n` drafts, take the first `k` that end in an answer, cancel the others.

    An early end without an answer that can be read does not count. The cancelled are billed for what they had used. On
    models whose runs must be reproducible the first are those of fewest critical tokens, and all run to their ends: there
    it saves waiting, not tokens (see `race`). `k = n` waits for all.
    Law: greedy; short drafts win, whatever they say. With k=1 the length of the winner is the least of n lengths of the
    model's (those that count), and given its length it is a draft of the model; it carries the weight 1/n.
    Constants: n 4 as published, k 1; k > 1 with a vote is the paper's variant. Temperature 0.8 is the house's.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Agarwal et al. 2025, arXiv:2505.18149 (First Finish Search)"

    n: int = 4
    k: int = 1
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, temperature=0)
        require(1 <= self.k <= self.n, f"first-finish: k lies between 1 and n={self.n}, not {self.k}")

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        pop, draft = branch([Particle(ROOT)], [self.n]), by.draft(problem, self.temperature)
        return await race(pop, draft, at, first=self.k, counts=lambda p: readable(p, problem, by))
