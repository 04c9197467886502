"""Comparisons that a selection buys, charged, recorded and resumed like any other call."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.tasks.protocol import Task
from forethought.verifiers.comparing import Comparer, compared


@dataclass(frozen=True, slots=True)
class Merging:
    """Two runs of drafts, each best first, as they become one. `merged` has the numbers of those that are placed.

    `open` is how many, from the first on, can still win: all, as long as the game is not over.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    merged: tuple[int, ...] = ()

    @property
    def order(self) -> tuple[int, ...]:
        """Best first, as far as is known: what is not placed yet comes as it stood, the left run first."""
        return self.merged + self.left + self.right

    @property
    def open(self) -> int:
        return 1 if self.merged else len(self.order)


@dataclass(frozen=True, slots=True)
class Matched:
    """A kernel that merges two runs by comparisons, or, with `first`, only until it is known who comes first.

    A comparison that cannot be read, or is even, goes to the one with more `weight`. Who is shown first is drawn.
    """

    drafts: tuple[Draft, ...]
    weight: tuple[float, ...]
    by: Comparer
    problem: Problem
    task: Task
    first: bool

    def bound(self, particle: Particle[Merging]) -> Cost:
        left, right = particle.state.left, particle.state.right
        if not left or not right:
            return ZERO
        costs = [self._most(i, j) for i in left for j in right]
        rounds = 1 if self.first else len(left) + len(right) - 1
        return Cost(*(max(entries) for entries in zip(*costs, strict=True))).times(rounds)

    def _most(self, i: int, j: int) -> Cost:
        return self.by.compare_bound(self.drafts[i], self.drafts[j], self.problem, self.task)

    async def __call__(self, particle: Particle[Merging], at: Scope) -> Particle[Merging]:
        state = particle.state
        while state.left and state.right:
            left = await self._left_wins(state.left[0], state.right[0], at)
            if self.first:
                order = state.order if left else state.right + state.left
                return particle.moved(Merging((), (), order), done=True)
            state = taken(state, left)
        return particle.moved(Merging((), (), state.order), done=True)

    async def _left_wins(self, i: int, j: int, at: Scope) -> bool:
        swap = bool(at.draw([1.0, 1.0]))
        one, other = (j, i) if swap else (i, j)
        share = await compared(self.drafts[one], self.drafts[other], self.by, self.problem, self.task, at)
        if share is None or share == 0.5:
            return (-self.weight[i], i) < (-self.weight[j], j)
        return (share > 0.5) != swap


def taken(state: Merging, left: bool) -> Merging:
    if left:
        return replace(state, left=state.left[1:], merged=(*state.merged, state.left[0]))
    return replace(state, right=state.right[1:], merged=(*state.merged, state.right[0]))
