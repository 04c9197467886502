from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.budget import Account
from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.errors import UsageError
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods

WIDEST = 1024  # drafts drawn at once with n=None


@methods.register("sample")
@dataclass(frozen=True)
class Sample:
    """`n` independent drafts; with `n=None`, drafts until the budget is used.

    Best-of-N is this method with the selection `best`, self-consistency with `majority`, weighted voting with `weighted`.
    Law: proper; n particles of weight 1/n, each drawn from the model (for n=None as far as the budget allows).
    Constants: temperature 0.8 is search-and-learn's default; papers use 0.6 to 1.
    """

    law: ClassVar[Law] = "proper"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Wang et al. 2022, arXiv:2203.11171 (self-consistency); Brown et al. 2024, arXiv:2407.21787"

    n: int | None = 16
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, temperature=0)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        draft = by.draft(problem, self.temperature)
        if self.n is not None:
            return await each(branch([Particle(ROOT)], [self.n]), draft, at)
        self.check(problem, by, at.account)
        drawn: list[Particle[Draft]] = []
        while True:  # until `each` raises BudgetEnded, having kept all that was drawn
            drawn = await each([*drawn, *self._as_many_as_fit(draft.bound(Particle(ROOT)), at)], draft, at)

    def check(self, problem: Problem, by: By, account: Account) -> None:
        """Raise UsageError where the drafts would never end."""
        if self.n is None and account.fits(by.draft(problem, self.temperature).bound(Particle(ROOT)).times(10**12)):
            raise UsageError("sample(n=None) draws until the budget is used, so it needs a budget in tokens or calls")

    def _as_many_as_fit(self, bound: Cost, at: Scope) -> list[Particle[Draft]]:
        count = 1
        while at.account.fits(bound.times(2 * count)) and count < WIDEST:
            count *= 2
        return [Particle(ROOT)] * count
