from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.keeping import keeping
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.steps import different

Entry = tuple[float, int, float, Particle[Draft]]  # f, order of coming, g


@methods.register("a-star")
@dataclass(frozen=True)
class AStar:
    """A*-decoding: always go on from the draft with the least f = g + `weight` * (1 - grade); the first to end is the answer.

    Each expansion takes the draft of least f off the frontier, draws `expand` steps from it, grades them and puts the
    different ones back. g is the cost of the path: with `path=likelihood` its -log p, summed over all tokens; with
    `path=drops` the sum of all rises of 1 - grade along it, so that a draft whose grades never fall costs nothing. The search
    stops when the draft taken off has ended, or after `n` expansions: then with the ended draft of least f, or where there is
    none with the best unfinished one, written to its end at temperature 0. Ties go to the earlier; an unknown grade counts 0.
    Drafts that were cut off are no answers and are dropped.
    Law: greedy; one draft, the best of those that were looked at. With `weight=0` this is best-first search by path, and with
    `expand=1` a sample.
    Constants: the paper's n, expand, temperature and exact g are not known to us, so all are parameters; the path by drops is
    what a survey says of it.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Chatziveroglou 2025, arXiv:2505.13672 (A*-decoding)"

    n: int = 32
    expand: int = 4
    weight: float = 1.0
    path: Literal["likelihood", "drops"] = "likelihood"
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, expand=1, weight=0, temperature=0)
        if self.path == "likelihood":
            object.__setattr__(self, "needs", self.needs | {"logprobs"})
        check_step("a-star", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature, logprobs=0 if self.path == "likelihood" else None)
        frontier: list[Entry] = [(0.0, 0, 0.0, Particle(ROOT))]
        put = 1
        for _ in range(self.n):
            if not frontier or frontier[0][3].ended:
                break
            _, _, g, best = heapq.heappop(frontier)
            with keeping(answers(frontier), at):
                drawn = different(await each([best] * self.expand, step, at))
                drawn = await by.grade([p for p in drawn if p.state.finish != "length"], problem, at)
            for p in drawn:
                cost = g + self.cost(p.state, by)
                heapq.heappush(frontier, (cost + self.weight * left(p.state, by), put, cost, p))
                put += 1
        return await self.answer(frontier, problem, by, at)

    def cost(self, draft: Draft, by: By) -> float:
        """What the last step adds to g."""
        if self.path == "likelihood":
            return -math.fsum(draft.logprobs)
        return max(0.0, left(draft, by) - left(draft.parent or ROOT, by))

    async def answer(self, frontier: list[Entry], problem: Problem, by: By, at: Scope) -> Population[Draft]:
        """The ended draft of least f, or the best unfinished one with an end."""
        if found := answers(frontier)[:1]:
            return found
        return await each([entry[3] for entry in frontier[:1]], by.draft(problem, 0.0), at)


def answers(frontier: list[Entry]) -> list[Particle[Draft]]:
    """The drafts that have ended, best first."""
    return [entry[3] for entry in sorted(entry for entry in frontier if entry[3].ended)]


def left(draft: Draft, by: By) -> float:
    """The heuristic: how far the draft is from a grade of 1. Nothing is known of the root, so a first step is no rise."""
    if draft.parent is None:
        return 1.0
    return 1.0 - (by.value(draft) or 0.0)
