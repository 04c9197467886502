from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from forethought.core.blocks import degenerate, sequentially, spawn
from forethought.core.draft import ROOT, Draft
from forethought.core.population import Particle, Population, posterior
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.resample import Scheme, resample
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.weigh import annealed, change, check_tempers, forgetful, prefixes, weighed


@methods.register("particle-filter")
@dataclass(frozen=True)
class ParticleFilter:
    """Sequential Monte Carlo over steps: a step is weighted by the change of the log-odds of its draft's grade.

    Law: proper; the expected measure is the model's times the final grade's odds, for any `ess` and `temper`.
    `ess` is the share of n below which the effective sample size triggers resampling (1 resamples whenever weights differ,
    0 never does), `temper` the temperature of the law by which survivors are drawn. With `temper_end` it goes there from
    `temper` in equal parts over the first `temper_steps` steps. Equal steps of one draft are graded once.
    Constants: ess 0.5 is usual; temper 1; temperature 0.8 as in the paper. See `particle-filter-published` for its own form.
    """

    law: ClassVar[Law] = "proper"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Puri et al. 2025, arXiv:2502.01618; Del Moral et al. 2006 for the incremental weights"

    n: int = 16
    resampling: Scheme = "systematic"
    ess: float = 0.5
    temper: float = 1.0
    temper_end: float | None = None
    temper_steps: int = 10
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, temperature=0)
        require(0 <= self.ess <= 1, f"particle-filter: ess is a share of n, from 0 to 1, not {self.ess}")
        check_tempers("particle-filter", self.temper, self.temper_end, self.temper_steps)
        check_step("particle-filter", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        move = weighed(problem, by, by.step(problem, self.temperature), partial(change, by=by))
        rounds = itertools.count()

        async def redraw(pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
            temper = annealed(next(rounds), self.temper, self.temper_end, self.temper_steps)
            if not degenerate(pop, self.ess * self.n):
                return list(pop)
            return resample(pop, self.n, posterior(pop, temper), at, self.resampling)

        return await sequentially(spawn(ROOT, self.n), at, move, redraw)


@methods.register("particle-filter-published")
@dataclass(frozen=True)
class ParticleFilterPublished:
    """The paper's particle filter as its code runs it: every step resamples all, finished ones too, on full-prefix odds.

    Law: greedy; the odds of every prefix multiply up, so the drafts follow no fixed target (see `particle-filter`).
    `temper`, `temper_end` and `temper_steps` are as there; equal steps of one draft are graded once.
    Constants as published: multinomial resampling at every step, softmax temperature `temper` 1, temperature 0.8.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Puri et al. 2025, arXiv:2502.01618, algorithm 1 and its released code"

    n: int = 16
    temper: float = 1.0
    temper_end: float | None = None
    temper_steps: int = 10
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, temperature=0)
        check_tempers("particle-filter-published", self.temper, self.temper_end, self.temper_steps)
        check_step("particle-filter-published", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        rounds = itertools.count()
        step = prefixes(problem, by, by.step(problem, self.temperature))
        redraw = forgetful(
            self.n,
            "multinomial",
            lambda pop: annealed(next(rounds), self.temper, self.temper_end, self.temper_steps),
        )
        return await sequentially(spawn(ROOT, self.n), at, step, redraw)
