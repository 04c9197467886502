from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.fanout import Kernel
from forethought.core.operators import each, prune
from forethought.core.population import Particle, Population, ended
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.steps import after, grade_different


@methods.register("early-rejection")
@dataclass(frozen=True)
class EarlyRejection:
    """Beam search that rejects steps half-way: only what looks good after `tokens` tokens is written to the end of its step.

    Each round `width` drafts are expanded into `expand` each, by the first `tokens` tokens of their next step (all of it
    where it is shorter), and graded. The `keep` best (None: `width`) finish their steps; where they are more than `width` they
    are graded again and the `width` best go on. A finished draft costs nothing more; equal pieces are graded once.
    Law: greedy; as `beam`. With `keep` = width * expand nothing is rejected and the drafts are those of `beam`.
    Constants: the paper has tokens 32 to 128, for long steps; 8, width 4, expand 4 and temperature 0.8 are ours. The
    verifier has to grade half steps. One that was trained at their ends alone, as the shipped one is, may do so badly: then
    take `keep` above `width`, so that whole steps are graded, too.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Cheshmi et al. 2025, arXiv:2508.01969 (partial reward models)"

    width: int = 4
    expand: int = 4
    tokens: int = 8
    keep: int | None = None
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, width=1, expand=1, tokens=1, temperature=0)
        fits = self.keep is None or self.width <= self.keep <= self.width * self.expand
        require(fits, f"early-rejection: keep must be from width to width * expand, not {self.keep}")
        check_step("early-rejection", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        begin = by.step(problem, self.temperature, most=self.tokens)
        finish = by.step(problem, self.temperature, most=max(by.boundary.tokens - self.tokens, 1))
        pop: list[Particle[Draft]] = [Particle(ROOT)] * self.width
        while not ended(pop):
            rank = after(pop, by)
            pop = [p for p in pop for _ in range(1 if p.ended else self.expand)]
            pop = await grade_different(await each(pop, begin, at), by, problem, at)
            pop = prune(pop, self.keep or self.width, key=rank)
            pop = await finished(pop, finish, by, at)
            if len(pop) > self.width:
                pop = prune(await grade_different(pop, by, problem, at), self.width, key=rank)
            at.keep(pop)
        return pop


async def finished(pop: Population[Draft], finish: Kernel[Draft], by: By, at: Scope) -> list[Particle[Draft]]:
    """The population with every half step written to its end; whole ones stay as they are."""
    half = [by.boundary.within(p.state) and not p.ended for p in pop]
    stay = [p for p, unfinished in zip(pop, half, strict=True) if not unfinished]
    try:
        return [*stay, *await each([p for p, unfinished in zip(pop, half, strict=True) if unfinished], finish, at)]
    except BaseException:  # also when a deadline cancels it
        at.keep([*stay, *(at.kept or ())])
        raise
