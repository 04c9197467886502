from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.balance import balanced, shared_out
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods


@methods.register("rebase")
@dataclass(frozen=True)
class Rebase:
    """REBASE, reward balanced search: each round the width left is spread over all unfinished steps by their grades.

    Step i gets a share of softmax(grade / temper), the best first and each rounded up, until the width is used; that many
    continuations are drawn from it. A finished draft takes its place out of the width. An unknown grade gets nothing unless
    all are unknown. Equal steps of one draft are graded once.
    Law: greedy; drafts with high grades have more offspring and no weight makes up for it. The `n` drafts have equal weights.
    At `temper` 0 the best step gets everything; with equal grades each gets the same, so the drafts are samples.
    Constants as in the released code: temper 0.2, temperature 1; its n is 16 to 256. The cap of 25 steps is the task's here.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Wu et al. 2024, arXiv:2408.00724 (REBASE), and its released code"

    n: int = 16
    temper: float = 0.2
    temperature: float = 1.0
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, temper=0, temperature=0)
        check_step("rebase", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature)
        return await balanced(self.n, shared_out(by, self.temper), step, problem, by, at)
