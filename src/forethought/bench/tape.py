"""Methods that draw whole drafts, run on recorded samples: draft i of the population is sample i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from forethought.bench.recorded import Recorded
from forethought.core.cost import Cost
from forethought.core.errors import UsageError
from forethought.core.population import posterior
from forethought.core.scope import Call, Run, Scope
from forethought.methods import By, Method
from forethought.methods.first_finish import FirstFinish
from forethought.models.protocol import Ability, Completion, Request


@dataclass(slots=True)
class Tape:
    """A model that gives out the samples of one problem; `order` says which one is draft i."""

    recorded: Recorded
    order: Sequence[int]
    method: Method
    asked: list[int] = field(default_factory=list)
    temperatures: set[float] = field(default_factory=set)
    name: str = "recorded"
    abilities: frozenset[Ability] = frozenset({"extend", "seed", "ordered"})

    def bound(self, request: Request) -> Cost:
        return Cost(calls=1)

    async def extend(self, request: Request, call: Call) -> Completion:
        self.temperatures.add(request.temperature)
        plain = request.draft.size == 0 and not request.draft.text and not request.stop and not request.forced
        own = request.messages == self.recorded.task.prompt(self.recorded.problem)
        if not (plain and own and len(self.temperatures) == 1):
            raise UsageError(
                f"{self.method.name} asks for more than whole drafts of the problem at one temperature, "
                "so recorded samples are not enough for it"
            )
        index = call.place[-2]  # a draft's place is its index in the population, and then the call's
        if index >= len(self.order):
            raise UsageError(f"{self.method} draws more than n drafts, so recorded samples are not enough for it")
        sample = self.order[index]
        self.asked.append(sample)
        said, cost = self.recorded.said[sample], self.recorded.drafts[sample].cost
        return Completion("?" if said is None else f"={said}", "end", cost._replace(calls=1), (sample,))


@dataclass(frozen=True, slots=True)
class Played:
    """Which samples a method returned, with their weights, and which it had drawn for that."""

    samples: list[int]
    weights: list[float]
    drawn: list[int]


def with_n(method: Method, n: int) -> Method:
    """The method with at most `n` drafts."""
    if not hasattr(method, "n"):
        raise UsageError(f"{method.name} has no n, the number of its drafts, so it cannot be replayed")
    return replace(method, n=n)  # type: ignore[type-var]


async def play(method: Method, recorded: Recorded, order: Sequence[int]) -> Played:
    """Run the method on the samples in this order. Raises UsageError for a method that asks for anything else."""
    if method.needs:
        raise UsageError(
            f"{method.name} needs {', '.join(sorted(method.needs))}, so recorded samples are not enough for it"
        )
    if isinstance(method, FirstFinish) and recorded.tokens is None:
        raise UsageError("first-finish needs the new_tokens of every sample")
    tape = Tape(recorded, order, method)
    pop = await method(recorded.problem, By(tape, recorded.task), Scope.root(Run()))
    return Played([p.state.tokens[0] for p in pop], posterior(pop).tolist(), tape.asked)
