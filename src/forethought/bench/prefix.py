"""Reading one population with several selections, each charged what it would have cost alone (design: equal cost)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from forethought.core.budget import BY_CLOCK_OR_CHAIN, Account, Budget, amount
from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods import By
from forethought.selection import Selection, Verdict
from forethought.selection.votes import graded
from forethought.solving import Made

GRADING, READING = 2, 3  # the places, beside the method's own, where drafts are graded, and where selections read


@dataclass(frozen=True, slots=True)
class Reading:
    """What selections read, and what it has cost up to here."""

    population: Population[Draft]
    cost: Cost

    async def select(
        self, selection: Selection, made: Made, by: By, problem: Problem, budget: Budget
    ) -> tuple[Verdict, Cost]:
        """The verdict within what the budget has left, and all that it cost, as if this selection were the only one.

        Its place is told by its spelling, so that the others have no part in what it draws and asks.
        """
        run, account = made.at.run, Account(None, budget.limits)
        account.charge(self.cost)
        began = run.clock.now()
        verdict = await selection(self.population, problem, by, Scope(run, account, (READING, number(selection))))
        return verdict, account.cost._replace(seconds=self.cost.seconds + run.clock.now() - began)


def number(selection: Selection) -> int:
    return int.from_bytes(blake2b(repr(selection).encode(), digest_size=4).digest())


def as_made(made: Made) -> Reading:
    """The population as the method left it."""
    return Reading(made.population, made.at.cost())


async def with_grades(made: Made, whole: Reading, by: By, problem: Problem, budget: Budget, cut: bool) -> Reading:
    """The finished drafts with grades, as far as the budget goes: graded once for all selections that want grades.

    A sample (`cut`) is read up to where its drafts and their grades fit the cap together, and costs what that part cost.
    """
    start = cut_to_fit(made, by, problem, budget) if cut else whole
    account = Account(None, budget.limits)
    account.charge(start.cost)
    began = made.at.run.clock.now()
    found = await graded(start.population, problem, by, Scope(made.at.run, account, (GRADING,)))
    return Reading(found, account.cost._replace(seconds=whole.cost.seconds + made.at.run.clock.now() - began))


def cut_to_fit(made: Made, by: By, problem: Problem, budget: Budget) -> Reading:
    """The longest beginning of a sample whose drafts and grades fit the cap together, and what its drafts cost."""
    verifier = by.verifier
    assert verifier is not None

    def price(draft: Draft) -> Cost:
        return drafted(draft) + (verifier.bound(draft, problem, by.task) if draft.finished else ZERO)

    part = made.population[: affordable(made.population, budget, price)]
    cost = ZERO
    for particle in part:
        cost = cost.beside(drafted(particle.state))
    return Reading(part, cost)


def drafted(draft: Draft) -> Cost:
    """What it took to write a draft from its root."""
    return sum((piece.cost for piece in draft.lineage()), ZERO)


def affordable(pop: Population[Draft], budget: Budget, price: Callable[[Draft], Cost]) -> int:
    """How many drafts, from the first on, fit the cap at their prices."""
    limits = {name: limit for name, limit in budget.limits.items() if name not in BY_CLOCK_OR_CHAIN}
    spent = ZERO
    for count, particle in enumerate(pop):
        spent += price(particle.state)
        if any(amount(spent, name) > limit for name, limit in limits.items()):
            return count
    return len(pop)
