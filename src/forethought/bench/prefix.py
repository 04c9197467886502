"""Reading one population with several selections at the same cap (design: comparisons at equal cost)."""

from __future__ import annotations

from collections.abc import Callable

from forethought.core.budget import BY_CLOCK_OR_CHAIN, Account, Budget, amount
from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods import By
from forethought.selection import Selection
from forethought.solving import Made

GRADING = 2  # the place, beside the method's own, where drafts are graded for selections


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


async def graded_prefix(made: Made, by: By, problem: Problem, budget: Budget) -> tuple[Population[Draft], Cost]:
    """The longest beginning of a sample whose drafts and grades fit the cap together, with grades, and what those cost."""
    verifier = by.verifier
    assert verifier is not None

    def price(draft: Draft) -> Cost:
        return drafted(draft) + (verifier.bound(draft, problem, by.task) if draft.finished else ZERO)

    at = Scope(made.at.run, Account(), (GRADING,))
    prefix = list(made.population[: affordable(made.population, budget, price)])
    finished = [p for p in prefix if p.state.finished]
    graded = await by.grade(finished, problem, at)
    return graded, at.account.spent


def prefix_cost(made: Made, pop: Population[Draft]) -> Cost:
    """What a part of a sample cost: its drafts in parallel."""
    cost = ZERO
    for particle in pop:
        cost = cost.beside(drafted(particle.state))
    return cost._replace(seconds=made.at.run.clock.now())


def wants_grades(selection: Selection) -> bool:
    return "grades" in selection.needs
