from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each, prune
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.steps import by_grade


@methods.register("capability-aware")
@dataclass(frozen=True)
class CapabilityAware:
    """Ask after each window of drafts whether a restart would do better; stop when the best draft says no.

    The verifier is the probe: its grade is the chance that no restart would do better. Drafting ends when a draft reaches
    `stop` (above 1: never). With `steps`, a window first writes so many steps, of whose drafts only the share `keep` that
    the verifier likes best is written to the end. Temperatures rise evenly from `low` (first draft) to `high` (n-th).
    Law: greedy; keeps and counts drafts by what the verifier says. `stop=2, steps=0, low=t, high=t` is `sample(n,
    temperature=t)`, graded; the paper's choice is the selection `best`.
    Constants: n 16, one draft at a time and pruning of 50 to 75 % after 64 or 128 tokens are published. The threshold, the
    schedule and windows of 2 are ours. As published, the model is trained to answer the probe in one token; a verifier
    that reads such a token is one, the embedded process reward model another. With `steps` it has to grade unfinished
    drafts.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"grades"})
    paper: ClassVar[str] = "Manvi et al. 2024, arXiv:2410.02725"

    n: int = 16
    stop: float = 0.9
    window: int = 2
    steps: int = 0
    keep: float = 0.5
    low: float = 0.6
    high: float = 1.0

    def __post_init__(self) -> None:
        at_least(self, n=1, window=1, steps=0)
        require(0 < self.keep <= 1, f"capability-aware: keep is a share, above 0 and at most 1, not {self.keep}")
        ordered = 0 <= self.low <= self.high
        require(ordered, f"capability-aware: 0 <= low <= high has to hold, not {self.low}, {self.high}")
        if self.steps:
            object.__setattr__(self, "needs", self.needs | {"continue", "process"})

    def saved(self, made: Population[Draft]) -> int:
        kept = math.ceil(self.keep * self.window) if self.steps else self.window
        return max(self.n - math.ceil(len(made) / kept) * self.window, 0)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        grade = by_grade(by)
        pop: list[Particle[Draft]] = []
        for drawn in range(0, self.n, self.window):
            temperature = self.low + (self.high - self.low) * drawn / max(self.n - 1, 1)
            before = len(pop)
            pop = [*pop, *[Particle(ROOT)] * min(self.window, self.n - drawn)]
            for _ in range(self.steps):
                pop = await each(pop, by.step(problem, temperature), at)
            if self.steps:
                pop = await by.grade(pop, problem, at)
                pop[before:] = prune(pop[before:], math.ceil(self.keep * len(pop[before:])), key=grade)
            pop = await by.grade(await each(pop, by.draft(problem, temperature), at), problem, at)
            if any(p.state.finished and grade(p) >= self.stop for p in pop):
                break
        return pop
