from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.simulate import Search
from forethought.methods.tree import Node


@methods.register("mcts")
@dataclass(frozen=True)
class Mcts:
    """Monte Carlo tree search over steps: `n` simulations, each of which draws one step and scores it.

    A simulation goes down from the root by UCT, mean + explore * sqrt(ln N(parent) / N), to the first node from which fewer
    than `expand` steps were drawn, draws a step there, scores it and backs the score up to the root. Rounds of `batch`
    simulations run side by side; those in flight count in N, not in the mean. What can yield nothing new (a finished draft;
    a node all of whose children are such) is left out, so finished drafts cost nothing more. With `rollout`, a step's score
    is the grade of one draft written to its end, by any verifier; else the grade of the draft so far, by a process verifier.
    Law: greedy; drafts under steps with high scores are drawn more often. All finished drafts come back, with equal weights.
    Simulations that never go below the root (`n` at most `expand`) are samples.
    Constants: rStar has explore 2, 16 rollouts; treequest sqrt(2); expand, batch and temperature are ours. At `batch=1`
    this is plain UCT.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "grades"})
    paper: ClassVar[str] = (
        "Kocsis & Szepesvari 2006 (UCT); Qi et al. 2024, arXiv:2408.06195 (rStar); Liu et al. 2020, arXiv:1810.11755 (pending)"
    )

    n: int = 32
    expand: int = 4
    explore: float = math.sqrt(2)
    batch: int = 8
    rollout: bool = True
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, expand=1, batch=1, explore=0, temperature=0)
        check_step("mcts", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        search = Search(problem, by, self.temperature, self.rollout)
        while search.begun < self.n and not search.root.closed:
            leaves = self.select(search.root, min(self.batch, self.n - search.begun))
            await search.simulate(leaves, at)
            for leaf in leaves:
                self.close(leaf)
        return await search.finished(at)

    def select(self, root: Node, most: int) -> list[Node]:
        """Up to `most` leaves for one round; fewer where the tree has to wait for what is in flight."""
        leaves: list[Node] = []
        while len(leaves) < most and (leaf := self.descend(root)) is not None:
            leaf.begin()
            leaves.append(leaf)
        return leaves

    def descend(self, node: Node) -> Node | None:
        """Where the next step is to be drawn; None if that is not known before a pending simulation ends."""
        while node.drawn >= self.expand:
            log_n = math.log(node.below.n + node.pending or 1)
            best, top = None, -math.inf
            for child in node.children.values():
                if not child.closed and (value := self.uct(child, log_n)) > top:
                    best, top = child, value
            if best is None:
                return None
            node = best
        return node

    def uct(self, child: Node, log_n: float) -> float:
        if not child.below.n:  # its score was lost to a failed call
            return math.inf
        return child.below.mean + self.explore * math.sqrt(log_n / (child.below.n + child.pending))

    def close(self, leaf: Node) -> None:
        """Close the nodes on the leaf's path from which nothing new can come."""
        for node in leaf.path():
            if node.drawn < self.expand or not all(child.closed for child in node.children.values()):
                return
            node.closed = True
