from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from forethought.core.blocks import accepted, sequentially
from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.weigh import log_odds


@dataclass(frozen=True)
class Rewrite:
    """A Markov move on graded drafts: keep a beginning, let the model write the rest again, accept by the ratio of the odds.

    Of a draft of s steps the first 0 to s - 1 are kept, each with chance 1/s; a longer proposal has more ways to have come
    about, so the ratio is odds' / odds * s / s'. The model's own probabilities cancel. Leaves the model times the odds to the
    power 1 / `temper` invariant.
    """

    problem: Problem
    by: By
    temper: float
    temperature: float

    async def written(self, pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
        """Write drafts to their ends, step by step, and grade them there."""
        step = self.by.step(self.problem, self.temperature)
        whole = await sequentially(pop, at, lambda pop, at: each(pop, step, at))
        return await self.by.grade(whole, self.problem, at)

    async def __call__(self, pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
        begun = [
            replace(self._beginning(p.state, at)) for p in pop
        ]  # copies: each is one chain's own, whoever shares its text
        with at.aside() as inside:
            proposals = await self.written([Particle(b) for b in begun], inside)
        by_chain = {id(d): p for p in proposals for d in p.state.lineage()}
        return [self._settled(p, by_chain.get(id(b)), at) for p, b in zip(pop, begun, strict=True)]

    def _beginning(self, draft: Draft, at: Scope) -> Draft:
        *rest, _root = draft.lineage()
        return [*draft.lineage()][1 + at.draw([1.0] * len(rest))]

    def _settled(self, now: Particle[Draft], new: Particle[Draft] | None, at: Scope) -> Particle[Draft]:
        if new is None:  # its call failed and was dropped
            return now
        gain = (log_odds(new.state, self.by) - log_odds(now.state, self.by)) / self.temper
        ratio = gain + math.log(length(now.state) / length(new.state))
        return accepted(now, Particle(new.state, now.logw, new.done), ratio, at)


def length(draft: Draft) -> int:
    """The number of steps."""
    return sum(1 for _ in draft.lineage()) - 1


@methods.register("metropolis-hastings")
@dataclass(frozen=True)
class MetropolisHastings:
    """Independent chains of drafts: each move writes a draft anew from a random step on and accepts by the grades' odds.

    Law: invariant; a move keeps the model times the final grade's odds to the power 1 / `temper`. The population is every
    state of every chain, its first (a sample of the model) too, with equal weights. No move is a `sample`.
    Constants: none published for verifiers; `chains`, `moves` and temper 1 are ours, temperature 0.8 as in particle filters.
    """

    law: ClassVar[Law] = "invariant"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "grades"})
    paper: ClassVar[str] = (
        "Metropolis et al. 1953; Hastings 1970; suffix proposals as in Karan and Du 2025, arXiv:2510.14901"
    )

    chains: int = 4
    moves: int = 4
    temper: float = 1.0
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, chains=1, moves=0, temperature=0)
        require(self.temper > 0, f"metropolis-hastings: temper must be positive, not {self.temper}")
        check_step("metropolis-hastings", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        rewrite = Rewrite(problem, by, self.temper, self.temperature)
        now = await rewrite.written([Particle(ROOT)] * self.chains, at)
        visited = list(now)
        for _ in range(self.moves):
            at.keep(visited)
            now = await rewrite(now, at)
            visited += now
        return visited
