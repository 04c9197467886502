from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each, prune
from forethought.core.population import Particle, Population, ended
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.steps import after, grade_different


@methods.register("beam")
@dataclass(frozen=True)
class Beam:
    """Step-level beam search against a process verifier: keep the `width` best drafts, expand each into `expand`.

    A draft that has ended keeps its place in the beam, as in the released code of Liu et al. 2025, arXiv:2502.06703
    (search-and-learn puts it aside and fills its place), and costs nothing more. Equal steps of one draft are graded once. The
    first round draws width * expand first steps. Nothing looks ahead.
    Law: greedy; keeps what the verifier likes best, so its drafts are not samples of the model. `beam(width=1, expand=1,
    temperature=0)` is `greedy`.
    Constants: search-and-learn's width is n/4 with expand 4, temperature 0.8; all are parameters.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Snell et al. 2024, arXiv:2408.03314, section 5 (beam search against a PRM)"

    width: int = 4
    expand: int = 4
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, width=1, expand=1, temperature=0)
        check_step("beam", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature)
        pop: list[Particle[Draft]] = [Particle(ROOT)] * self.width
        while not ended(pop):
            rank = after(pop, by)
            # Copies, not `branch`: a beam is a set, and its members vote alike.
            pop = [p for p in pop for _ in range(1 if p.ended else self.expand)]
            pop = await each(pop, step, at)
            pop = prune(await grade_different(pop, by, problem, at), self.width, key=rank)
            at.keep(pop)
        return pop
