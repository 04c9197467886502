"""Models that have to look at their endpoint first: within the budget, and on the bill."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.errors import UsageError
from forethought.core.scope import Scope
from forethought.models.protocol import Model

UNLIMITED = Budget()


@runtime_checkable
class Probes(Protocol):
    """The optional ability to find out by a few calls what an endpoint understands. The next call is charged for them."""

    @property
    def probing(self) -> Cost:
        """The most that this may cost, and once it is done what of it nobody was charged for yet."""
        ...

    async def prepare(self) -> None:
        """Do so, unless it is done. Raises UsageError if the endpoint cannot be used."""
        ...

    def owed(self) -> Cost:
        """What of it nobody was charged for yet: from now on that is up to the caller."""
        ...


async def prepare(model: Model, budget: Budget = UNLIMITED) -> None:
    """Let a model that has to look at its endpoint do so. Raises UsageError if that cannot be, or not within the budget."""
    if not isinstance(model, Probes):
        return
    most = model.probing
    if not Scope.root(budget=budget).account.fits(most):
        raise UsageError(
            f"the budget {budget} is too small for {model.name}: only to find out what it understands "
            f"may take {most.calls} calls, {most.prompt_tokens} prompt tokens and {most.new_tokens} new tokens"
        )
    await model.prepare()


def settle(model: Model, at: Scope) -> None:
    """Charge here for the look at the endpoint if the run has bought nothing: else its first call was charged."""
    if isinstance(model, Probes) and not at.run.physical_calls + at.run.replayed:
        at.account.charge(model.owed())
