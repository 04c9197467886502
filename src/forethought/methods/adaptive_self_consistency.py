from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import answers, windows
from forethought.methods.protocol import Law, Need, methods


@methods.register("adaptive-self-consistency")
@dataclass(frozen=True)
class AdaptiveSelfConsistency:
    """Self-consistency that stops early (ESC): draw `window` drafts at a time, stop at a window that is of one mind.

    A draft that cannot be read breaks a window's agreement. All drafts are returned, so `majority` votes over all of them
    (the released script answers with the unanimous window alone). `window >= n` is `sample(n)`.
    Law: greedy; drafts of weight 1 whose number N depends on what they say. Their expected measure is the model's times
    E[N] (Wald), but shares lean towards what the last window agreed on. If q is the chance that a window agrees and n a
    multiple of the window, E[N] = window * (1 - (1 - q)^(n / window)) / q.
    Constants: window 5 as in the released scripts, whose n goes to 40 (MATH: 64) at temperature 0.7 (0.5); n 16 and
    temperature 0.8 are the house's.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Li et al. 2024, arXiv:2401.10480 (Early-Stopping Self-Consistency)"

    n: int = 16
    window: int = 5
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, window=1, temperature=0)

    def saved(self, made: Population[Draft]) -> int:
        return self.n - len(made)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        async def of_one_mind(_: Population[Draft], last: Population[Draft]) -> bool:
            said = set(await answers(last, problem, by, at))
            return len(last) == self.window and len(said) == 1 and None not in said

        draft, window = by.draft(problem, self.temperature), [Particle(ROOT)] * self.window
        return await windows(draft, window, self.n, at, of_one_mind)
