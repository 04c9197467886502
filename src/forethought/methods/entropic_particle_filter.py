from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from forethought.core.blocks import degenerate, sequentially, spawn
from forethought.core.draft import ROOT, Draft
from forethought.core.population import Particle, Population, ended, ess, posterior
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.resample import Scheme, resample
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.weigh import change, foreseen, forgetful, prefixes, weighed

PAPER = (
    "Mitigating premature exploitation in particle-based Monte Carlo, 2025, and its_hub's `entropic_particle_filtering`"
)


def entropic(pop: Population[Draft], progress: float) -> float:
    """The temperature of resampling: above 1 while the weights are concentrated early in the draft."""
    effective, n = ess(pop), len(pop)
    return max(1.0, (1 - progress) * n / effective) if 0 < effective < n / 2 and progress < 0.5 else 1.0


@methods.register("entropic-particle-filter")
@dataclass(frozen=True)
class EntropicParticleFilter:
    """A particle filter that explores for longer: survivors are drawn at a higher temperature while few particles lead early.

    Law: proper; the same target as `particle-filter`: whatever law draws the survivors, their weights are corrected for it.
    `look_ahead` modulates that law by what one more step would gain each particle (an auxiliary particle filter), for one
    more step a particle and round. Progress is counted in rounds of `horizon` (None: as many as a draft may have steps).
    Constants as published, not parameters here: temperature (1 - progress) / (ESS / n) while ESS / n (`ess_threshold` in the
    authors' code) and progress (`early_phase`) are both below 1/2, else 1, which is its base temperature; systematic.
    The authors' code has no look-ahead; its form here is the textbook's. See `entropic-particle-filter-published`.
    """

    law: ClassVar[Law] = "proper"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = f"{PAPER}; Pitt and Shephard 1999 for the look-ahead"

    n: int = 16
    look_ahead: bool = False
    horizon: int | None = None
    resampling: Scheme = "systematic"
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, horizon=1, temperature=0)
        check_step("entropic-particle-filter", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        move = weighed(problem, by, by.step(problem, self.temperature), partial(change, by=by))
        rounds, horizon = itertools.count(1), self.horizon or by.boundary.most

        async def redraw(pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
            temper = entropic(pop, next(rounds) / horizon)
            if not degenerate(pop, self.n):
                return list(pop)
            at.keep(pop)
            guide = await foreseen(pop, move, at) if self.look_ahead and not ended(pop) else [0.0] * len(pop)
            tilted = [Particle(p.state, p.logw + g) for p, g in zip(pop, guide, strict=True)]
            return resample(pop, self.n, posterior(tilted, temper), at, self.resampling)

        return await sequentially(spawn(ROOT, self.n), at, move, redraw)


@methods.register("entropic-particle-filter-published")
@dataclass(frozen=True)
class EntropicParticleFilterPublished:
    """Entropic annealing as its code runs it: every step resamples all, on tempered full-prefix odds, and forgets the weights.

    Law: greedy; as in `particle-filter-published`, and the temperature depends on the particles: there is no fixed target.
    Constants as in `entropic-particle-filter`.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = PAPER

    n: int = 16
    horizon: int | None = None
    resampling: Scheme = "systematic"
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, horizon=1, temperature=0)
        check_step("entropic-particle-filter-published", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        rounds, horizon = itertools.count(1), self.horizon or by.boundary.most
        step = prefixes(problem, by, by.step(problem, self.temperature))
        redraw = forgetful(self.n, self.resampling, lambda pop: entropic(pop, next(rounds) / horizon))
        return await sequentially(spawn(ROOT, self.n), at, step, redraw)
