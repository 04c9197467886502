"""An environment as a search meets it: moves are drawn from a model, made in the world, valued, and written down as drafts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from forethought.core.draft import ROOT, Draft, Finish
from forethought.core.operators import each
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.steps import key
from forethought.tasks.environments import ENVIRONMENTS, Environment

NEUTRAL = 0.5  # the value of what nobody can tell


@dataclass(frozen=True, slots=True)
class Place:
    """A state of the world, what has been written on the way to it, its value, and how many moves from the start it is."""

    draft: Draft
    state: Any
    value: float = NEUTRAL
    depth: int = 0


@dataclass(slots=True)
class World:
    """The task's environment; without one a text, whose state is the draft and whose moves are its steps."""

    problem: Problem
    by: By
    temperature: float
    inner: Environment[Any] | None = field(init=False)
    seen: dict[Any, int] = field(default_factory=dict)  # the states of this search, and how deep each was

    def __post_init__(self) -> None:
        make = ENVIRONMENTS.get(self.by.task.name)
        self.inner = make(self.problem) if make else None

    def start(self) -> Place:
        return Place(ROOT, self.inner.start() if self.inner else None)

    def begin(self, place: Place) -> Place:
        """Start a search anew from here."""
        self.seen = {place.state: 0}
        return replace(place, value=NEUTRAL, depth=0)

    def moves(self, place: Place) -> list[Any]:
        return list(self.inner.moves(place.state)) if self.inner else []

    async def drawn(self, place: Place, n: int, at: Scope) -> list[tuple[Any, Draft]]:
        """The moves read in `n` steps that the model draws, each with its draft, without those that are none."""
        step = self.by.step(self.problem, self.temperature)
        drafts = [p.state for p in await each([Particle(place.draft)] * n, step, at)]
        if self.inner is None:
            return [(key(draft), draft) for draft in drafts]
        read = [(self.inner.read(place.state, draft.new), draft) for draft in drafts]
        return [(move, draft) for move, draft in read if move is not None]

    async def make(self, place: Place, move: Any, draft: Draft, at: Scope) -> Place | None:
        """The place that a move leads to; None for a state that was reached before by no more moves, and for a dropped one.

        `draft` is what the model wrote of the move; the world's own words take its place.
        """
        depth = place.depth + 1
        if self.inner is None:
            cut = draft.finish == "length"
            return Place(draft, None, 0.0, depth) if cut else await self.valued(draft, None, depth, at)
        state, said = await self.inner.step(place.state, move)
        if self.seen.get(state, depth + 1) <= depth:
            return None
        self.seen[state] = depth
        finish: Finish | None = None if self.inner.moves(state) else "end"
        draft, value = Draft(place.draft, said, size=draft.size, finish=finish), self.inner.value(state)
        return await self.valued(draft, state, depth, at) if value is None else Place(draft, state, value, depth)

    async def valued(self, draft: Draft, state: Any, depth: int, at: Scope) -> Place | None:
        """A place worth its draft's grade; unknown counts 0. None where the grading failed and was dropped."""
        if self.by.verifier is None or not self.by.verifier.process:
            return Place(draft, state, NEUTRAL, depth)
        for graded in await self.by.grade([Particle(draft, done=draft.finish is not None)], self.problem, at):
            return Place(graded.state, state, self.by.value(graded.state) or 0.0, depth)
        return None

    async def written(self, place: Place, at: Scope) -> Particle[Draft]:
        """The record; a text that has not ended is written to its end."""
        particle = Particle(place.draft, done=place.draft.finish is not None)
        if self.inner is not None:
            return particle
        written = await each([particle], self.by.draft(self.problem, 0.0), at)
        return written[0] if written else particle  # as far as it came, where the call failed and was dropped
