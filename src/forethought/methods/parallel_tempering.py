from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.particle_gibbs import Sweep, drawn
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.weigh import log_odds


@dataclass(frozen=True)
class Chain:
    """A chain of particle Gibbs: its sweep, the particles of its last one, and the reference drawn from them.

    `answers` is where a sweep publishes what it has come to, whatever ends its round; None where there are answers already.
    """

    sweep: Sweep
    population: Population[Draft] = ()
    reference: Draft | None = None
    answers: Scope | None = None


async def swept(chain: Particle[Chain], at: Scope) -> Particle[Chain]:
    """A kernel: one more sweep."""
    now = chain.state
    try:
        pop = await now.sweep(now.reference, at)
    finally:
        if now.answers:
            now.answers.keep(at.kept or ())
    return chain.moved(Chain(now.sweep, pop, drawn(pop, at)))


def exchanged(references: Sequence[Draft], tempers: Sequence[float], by: By, at: Scope) -> list[Draft]:
    """Swap the references of neighbours by the rule of Metropolis, which leaves the product of their targets invariant."""
    refs = list(references)
    for k in range(len(refs) - 1):
        gap = log_odds(refs[k + 1], by) - log_odds(refs[k], by)
        chance = math.exp(min((1 / tempers[k] - 1 / tempers[k + 1]) * gap, 0.0))
        if at.draw([chance, 1 - chance]) == 0:
            refs[k], refs[k + 1] = refs[k + 1], refs[k]
    return refs


@methods.register("parallel-tempering")
@dataclass(frozen=True)
class ParallelTempering:
    """Chains of particle Gibbs at several temperatures, whose references swap; the particles of the coldest one vote.

    Law: invariant; a round keeps the product of the chains' targets: the model times the final grade's odds to the power
    1 / T. The coldest has T 1, the hottest `hottest`, the others lie between in equal ratios. The population is that of the
    coldest chain's `sweeps`, each of the same mass; one chain is `particle-gibbs`.
    Constants: the paper's temperatures are not known to us; `chains`, `n`, `sweeps` and `hottest` are ours, temperature 0.8.
    """

    law: ClassVar[Law] = "invariant"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Puri et al. 2025, arXiv:2502.01618, algorithm 3 (particle Gibbs with parallel tempering)"

    chains: int = 3
    n: int = 4
    sweeps: int = 3
    hottest: float = 4.0
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, chains=1, n=2, sweeps=1, hottest=1, temperature=0)
        check_step("parallel-tempering", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        tempers = [self.hottest ** (k / max(self.chains - 1, 1)) for k in range(self.chains)]
        sweeps = [Sweep(problem, by, self.n, temper, self.temperature) for temper in tempers]
        chains = [Particle(Chain(sweep, answers=None if k else at)) for k, sweep in enumerate(sweeps)]
        coldest: list[Particle[Draft]] = []
        for _ in range(self.sweeps):
            with at.aside() as inside:
                chains = await each(chains, swept, inside, failures="fail")
            coldest += chains[0].state.population
            at.keep(coldest)
            references = [c.state.reference for c in chains if c.state.reference]
            if len(references) < len(chains):  # all particles of a chain were dropped after failures
                break
            swapped = exchanged(references, tempers, by, at)
            chains = [Particle(Chain(sweep, (), ref)) for sweep, ref in zip(sweeps, swapped, strict=True)]
        return coldest
