from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.mixed import fit
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.simulate import Search
from forethought.methods.tree import Node

SETTLED, SAME = 4, 0.75  # a child with this many scores of which this share is the same is left alone

Seen = defaultdict[Node, Counter[int]]
"""How often each score, in hundredths, was seen at or below a node."""


@methods.register("ab-mcts-m")
@dataclass(frozen=True)
class AbMctsM:
    """Adaptive branching tree search, mixed model: at each node one model of all scores decides to go wider or deeper.

    The scores at and below a node are grouped by its children. A mixed-effects model (see `mixed`) predicts the next score of
    each child and of a new one; one draw of each, and the best wins: a new step is drawn here and scored, or the child comes
    next. A child with at least 4 scores of which 75 % are equal to two digits gives way to the next best child, and if there
    is none to a new one. Finished drafts cannot be gone deeper into. `batch` leaves at a time are drawn from one posterior.
    `rollout` is as in `mcts`: what is scored is a draft written to its end from the step, or the step itself. An equal step
    of the same node is the same child.
    Law: greedy; drafts under steps with high scores are drawn more often. All finished drafts come back, with equal weights.
    Where a step is a whole draft it never deepens and is `sample`.
    Constants, as in treequest: the model's priors, 4 and 75 %. The published code fits by NUTS, this one in closed form over
    a grid, in which scores spread about their child by 0.01 to 1.5 (ours). At `batch=1` this is the published search. n,
    batch and temperature are ours.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "grades"})
    paper: ClassVar[str] = "Inoue et al. 2025, arXiv:2503.04412 (AB-MCTS-M), and its released code, treequest"

    n: int = 32
    batch: int = 8
    rollout: bool = True
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, batch=1, temperature=0)
        check_step("ab-mcts-m", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        search = Search(problem, by, self.temperature, self.rollout)
        seen: Seen = defaultdict(Counter)
        while search.begun < self.n:
            chance = np.random.Generator(np.random.PCG64(at.seed()))
            leaves = [descend(search.root, seen, chance) for _ in range(min(self.batch, self.n - search.begun))]
            for leaf in leaves:
                leaf.begin()
            for node, score in await search.simulate(leaves, at):
                for above in node.path():
                    seen[above][round(100 * score)] += 1
        return await search.finished(at)


def descend(node: Node, seen: Seen, chance: np.random.Generator) -> Node:
    """The node from which the next step is to be drawn."""
    while (child := deeper(node, seen, chance)) is not None:
        node = child
    return node


def deeper(node: Node, seen: Seen, chance: np.random.Generator) -> Node | None:
    """The child to go on with, or None to go wider."""
    scored = [child for child in node.children.values() if child.below.n]
    if all(child.closed for child in scored):
        return None
    below = [child.below for child in scored]
    new, *known = fit([s.n for s in below], [s.total for s in below], [s.squares for s in below]).predict(chance)[0]
    arms = sorted((-draw, i) for i, draw in enumerate(known) if not scored[i].closed)
    if -arms[0][0] < new:
        return None
    return next((scored[i] for _, i in arms if not settled(seen[scored[i]])), None)


def settled(scores: Counter[int]) -> bool:
    """Whether most scores at and below a node are the same to two digits."""
    return scores.total() >= SETTLED and max(scores.values()) >= SAME * scores.total()
