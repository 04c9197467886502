from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population, ended, ess, posterior
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.resample import Scheme, resample
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods

CLIP = 1e-7  # as the paper's code clips grades before taking their odds


def log_odds(draft: Draft, by: By) -> float:
    """log(g / (1 - g)) of the draft's grade; 0 where it is unknown, which makes it a factor of 1."""
    grade = by.value(draft)
    if grade is None:
        return 0.0
    clipped = min(max(grade, CLIP), 1 - CLIP)
    return math.log(clipped) - math.log1p(-clipped)


def change(draft: Draft, by: By) -> float:
    """What the last step did to the log-odds."""
    return log_odds(draft, by) - (log_odds(draft.parent, by) if draft.parent else 0.0)


@methods.register("particle-filter")
@dataclass(frozen=True)
class ParticleFilter:
    """Sequential Monte Carlo over steps: a step is weighted by the change of the log-odds of its draft's grade.

    Law: proper; the expected measure is the model's times the final grade's odds, for any `ess` and `temper`.
    `ess` is the share of n below which the effective sample size triggers resampling (1 resamples whenever weights differ,
    0 never does), `temper` the temperature of the law by which survivors are drawn.
    Constants: ess 0.5 is usual; temper 1; temperature 0.8 as in the paper. See `particle-filter-published` for its own form.
    """

    law: ClassVar[Law] = "proper"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Puri et al. 2025, arXiv:2502.01618; Del Moral et al. 2006 for the incremental weights"

    n: int = 16
    resampling: Scheme = "systematic"
    ess: float = 0.5
    temper: float = 1.0
    temperature: float = 0.8

    def __post_init__(self) -> None:
        require(self.n >= 1, f"particle-filter: n must be at least 1, not {self.n}")
        require(0 <= self.ess <= 1, f"particle-filter: ess is a share of n, from 0 to 1, not {self.ess}")
        require(self.temper > 0, f"particle-filter: temper must be positive, not {self.temper}")
        require(self.temperature >= 0, f"particle-filter: temperature must be at least 0, not {self.temperature}")

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        step = by.step(problem, self.temperature)
        pop = branch([Particle(ROOT)], [self.n])
        while not ended(pop):
            stayed = {id(p.state) for p in pop if p.ended}
            pop = await by.grade(await each(pop, step, at), problem, at)
            pop = [p if id(p.state) in stayed else p.moved(p.state, gain=change(p.state, by), done=p.done) for p in pop]
            if ess(pop) < self.ess * self.n * (1 - 1e-12):
                pop = resample(pop, self.n, posterior(pop, self.temper), at, self.resampling)
            at.keep(pop)
        return pop


@methods.register("particle-filter-published")
@dataclass(frozen=True)
class ParticleFilterPublished:
    """The paper's particle filter as its code runs it: every step resamples all, finished ones too, on full-prefix odds.

    Law: greedy; the odds of every prefix multiply up, so the drafts follow no fixed target (see `particle-filter`).
    Constants as published: multinomial resampling at every step, softmax temperature `temper` 1, temperature 0.8.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Puri et al. 2025, arXiv:2502.01618, algorithm 1 and its released code"

    n: int = 16
    temper: float = 1.0
    temperature: float = 0.8

    def __post_init__(self) -> None:
        require(self.n >= 1, f"particle-filter-published: n must be at least 1, not {self.n}")
        require(self.temper > 0, f"particle-filter-published: temper must be positive, not {self.temper}")
        require(
            self.temperature >= 0, f"particle-filter-published: temperature must be at least 0, not {self.temperature}"
        )

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        step = by.step(problem, self.temperature)
        pop = branch([Particle(ROOT)], [self.n])
        while not ended(pop):
            pop = await by.grade(await each(pop, step, at), problem, at)
            pop = [Particle(p.state, log_odds(p.state, by), p.done) for p in pop]
            picked = resample(pop, self.n, posterior(pop, self.temper), at, "multinomial")
            pop = [Particle(p.state, 0.0, p.done) for p in picked]
            at.keep(pop)
        return pop
