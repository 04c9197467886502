from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from forethought.core.draft import Draft
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.keeping import keeping
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.world import Place, World
from forethought.tasks.environments import ENVIRONMENTS


@methods.register("best-first")
@dataclass(frozen=True)
class BestFirst:
    """Best-first tree search of an agent in a world that can be reset: try moves, go back, then commit to the best way found.

    At a state `draws` moves are drawn from the model and the `expand` most frequent are proposed; `moves=all` proposes every
    legal one and asks no model. A proposal waits with the value of the state that it was made in, 1/2 at the start. The one
    with the highest value is made (ties go to the earlier); the state it leads to is valued: by the world where it can tell,
    else by a process verifier, else 1/2. Up to `depth` moves deep new proposals follow. After `nodes` moves, or at value 1,
    the way to the best state is committed, and the search begins there anew, up to `rounds` times. A state that was reached
    before by no more moves is not gone on from again.
    Countdown is such a world: the state is its numbers. In a task that has none a step of text is a move; there a text that
    has not ended after all rounds is written to its end.
    Law: greedy; one draft, the record of the way.
    Constants as published: expand 5, draws 20 (there twice `expand` where that is more), depth 5, nodes 20, rounds 5,
    temperature 1. The value, in the paper a vote of 20 judgements, is the verifier's.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue"})
    paper: ClassVar[str] = (
        "Koh et al. 2024, arXiv:2407.01476 (tree search for language model agents), and its released code"
    )

    expand: int = 5
    draws: int = 20
    depth: int = 5
    nodes: int = 20
    rounds: int = 5
    moves: Literal["model", "all"] = "model"
    temperature: float = 1.0
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, expand=1, draws=1, depth=1, nodes=1, rounds=1, temperature=0)
        check_step("best-first", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        known = by.task.name in ENVIRONMENTS
        able = known or (by.verifier is not None and by.verifier.process)
        require(able, "best-first needs a verifier that grades steps, such as process, where a task has no environment")
        require(not (known and self.step), f"best-first: where moves end is a matter of {by.task.name}, not of step")
        require(known or self.moves == "model", f"best-first: {by.task.name} cannot tell its legal moves")
        world = World(problem, by, self.temperature)
        here, found = world.start(), list[Particle[Draft]]()
        with keeping(found, at):
            for _ in range(self.rounds):
                best = await self.search(here, world, found, at)
                if best is None:
                    break
                here = best
                if here.draft.finish:
                    break
            return [await world.written(here, at)]

    async def search(self, here: Place, world: World, found: list[Particle[Draft]], at: Scope) -> Place | None:
        """The best place reached from here by up to `nodes` moves; None if there are none. `found`: the best that ended."""
        best, put, here = None, itertools.count(), world.begin(here)
        waiting = [(-here.value, next(put), here, move) for move in await self.proposed(here, world, at)]
        for _ in range(self.nodes):
            if not waiting:
                break
            _, _, above, move = heapq.heappop(waiting)
            place = await world.make(above, *move, at)
            if place is None:
                continue
            if best is None or place.value > best.value:
                best = place
                found[:] = [Particle(place.draft, done=True)] if place.draft.finished else found
            if place.value >= 1:
                break
            if place.depth < self.depth and not place.draft.finish:
                for move in await self.proposed(place, world, at):
                    heapq.heappush(waiting, (-place.value, next(put), place, move))
        return best

    async def proposed(self, place: Place, world: World, at: Scope) -> list[tuple[Any, Draft]]:
        """Moves to make next, each with the draft that it was read in."""
        if self.moves == "all":
            return [(move, place.draft) for move in world.moves(place)]
        read = await world.drawn(place, self.draws, at)
        counts: Counter[Hashable] = Counter(move for move, _ in read)
        first = dict(reversed(read))
        return [(move, first[move]) for move, _ in counts.most_common(self.expand)]
