from __future__ import annotations

import itertools
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.blocks import spawn
from forethought.core.draft import ROOT, Draft
from forethought.core.population import Particle, Population, ended, log_evidence, posterior
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.resample import resample
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.weigh import change, weighed


@dataclass(frozen=True)
class Sweep:
    """A conditional particle filter of `n` particles, for the model times the final odds to the power 1 / `temper`.

    The first particle goes along the reference; the others may take its beginning over and go on from there by themselves.
    They are resampled multinomially from all after every step, finished ones too. Without a reference it is a plain filter.
    """

    problem: Problem
    by: By
    n: int
    temper: float
    temperature: float

    async def __call__(self, reference: Draft | None, at: Scope) -> list[Particle[Draft]]:
        """A population of mass one. A draft drawn from it by weight is the next reference: this leaves the target invariant."""
        path = [*reference.lineage()][-2::-1] if reference else []

        def gain(draft: Draft) -> float:
            return change(draft, self.by) / self.temper

        step = self.by.step(self.problem, self.temperature)
        pop, pins = spawn(ROOT, self.n), 1 if reference else 0
        pinned: list[Particle[Draft]] = []
        # With random grades, a free particle that makes the reference's step must have its grade, or it would not be its like.
        move = weighed(self.problem, self.by, step, gain, lambda: pinned)
        for t in itertools.count():
            pinned = pop[:pins]
            if t < len(path):
                pinned = [pop[0].moved(path[t], gain=gain(path[t]), done=t + 1 == len(path))]
            pop = [*pinned, *await move(pop[pins:], at)]
            at.keep(pop)
            if ended(pop):
                mass = log_evidence(pop)
                return [Particle(p.state, p.logw - mass, p.done) for p in pop]
            free = resample(pop, self.n - pins, posterior(pop), at, "multinomial") if self.n > pins else []
            pop = [Particle(p.state, 0.0, p.done) for p in [*pop[:pins], *free]]  # all weigh the same now
        raise AssertionError("unreachable")


def drawn(pop: Population[Draft], at: Scope) -> Draft | None:
    """The next reference; nobody's is none, so that the next sweep begins anew."""
    return pop[at.draw(posterior(pop).tolist())].state if pop else None


@methods.register("particle-gibbs")
@dataclass(frozen=True)
class ParticleGibbs:
    """Sweeps of a particle filter, each conditioned on a draft drawn from the one before; every sweep's particles vote.

    Law: invariant; a sweep keeps the model times the final grade's odds to the power 1 / `temper`, for any `n` (with n=1 it
    never moves). The population is that of all `sweeps`, each of the same mass; one sweep is a particle filter.
    Constants: the paper takes `n` particles times `sweeps` for the budget, temper 1, temperature 0.8. It weighs a particle by
    the odds of its whole prefix at every step; here by their change, without which there is no fixed target.
    """

    law: ClassVar[Law] = "invariant"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Puri et al. 2025, arXiv:2502.01618, algorithm 2; Andrieu, Doucet and Holenstein 2010"

    n: int = 8
    sweeps: int = 3
    temper: float = 1.0
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, sweeps=1, temperature=0)
        require(self.n >= 2, f"particle-gibbs: n must be at least 2, of which one is the reference, not {self.n}")
        require(self.temper > 0, f"particle-gibbs: temper must be positive, not {self.temper}")
        check_step("particle-gibbs", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        sweep = Sweep(problem, by, self.n, self.temper, self.temperature)
        every: list[Particle[Draft]] = []
        reference: Draft | None = None
        for _ in range(self.sweeps):
            # An unfinished sweep is an answer only where there is no other.
            with at.aside() if every else nullcontext(at) as place:
                pop = await sweep(reference, place)
            every += pop
            at.keep(every)
            reference = drawn(pop, at)
        return every
