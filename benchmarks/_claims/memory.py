"""The KV cache that a search holds: unique tokens of the drafts that it goes on from, round by round."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Run, Scope
from forethought.methods import By, Method
from forethought.solving import Made, Parts, populate


class Watched(Scope):
    """A place that notes the size of every population of unfinished drafts that a method publishes there."""

    __slots__ = ("sizes",)

    def __init__(self, at: Scope) -> None:
        super().__init__(at.run, at.account, at.path, at)
        self.sizes: list[int] = []

    def keep(self, population: Population[Draft]) -> None:
        super().keep(population)
        live = [p.state for p in population if not p.ended]
        if live:
            self.sizes.append(unique_tokens(live))


@dataclass
class Watching:
    """A method, run at a watched place."""

    method: Method
    sizes: list[int]

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        place = Watched(at)
        made = await self.method(problem, by, place)
        self.sizes += place.sizes or [unique_tokens(p.state for p in made)]
        return made


def unique_tokens(drafts: Iterable[Draft]) -> int:
    """The tokens of drafts and of their beginnings, each beginning that they share once."""
    nodes = {node for draft in drafts for node in draft.lineage()}
    return sum(node.size - (node.parent.size if node.parent else 0) for node in nodes)


async def populate_watched(parts: Parts, problem: Problem, run: Run) -> tuple[Made, float]:
    """A population, and the mean size over the rounds; of a method that publishes no rounds, that of what it returns."""
    watching = Watching(parts.method, [])
    made = await populate(replace(parts, method=watching), problem, run)  # type: ignore[arg-type]
    return made, sum(watching.sizes) / len(watching.sizes)
