from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from forethought.core.draft import Draft
from forethought.core.errors import ModelError
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.simulate import Search
from forethought.methods.thompson import PRIORS, Arms, columns
from forethought.methods.tree import Node


@methods.register("ab-mcts-a")
@dataclass(frozen=True)
class AbMctsA:
    """Adaptive branching tree search, node aggregation: at each node Thompson sampling decides to go wider or deeper.

    A simulation goes down from the root. At each node it draws once from the posterior of the scores of the node's own steps
    (wider) and once from that of all deeper scores. If wider wins, a new step is drawn here and scored; else the child with
    the best draw from the posterior of all scores at or below it comes next. Finished drafts cannot be gone deeper into.
    Rounds of `batch` simulations run side by side; those in flight sharpen a normal posterior as if they came out at its mean.
    `rollout` is as in `mcts`: what is scored is a draft written to its end from the step, or the step itself. An equal step
    of the same node is the same child.
    Law: greedy; drafts under steps with high scores are drawn more often. All finished drafts come back, with equal weights.
    Where a step is a whole draft it never deepens and is `sample`.
    Constants, as in treequest: prior mean 0, kappa 1, nu 1, tau^2 0.1; Jeffreys prior for `prior=beta`, which needs grades in
    [0, 1]. At `batch=1` this is the published search. n, batch and temperature are ours.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "grades"})
    paper: ClassVar[str] = "Inoue et al. 2025, arXiv:2503.04412 (AB-MCTS-A), and its released code, treequest"

    n: int = 32
    batch: int = 8
    prior: Literal["normal", "beta"] = "normal"
    rollout: bool = True
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, batch=1, temperature=0)
        check_step("ab-mcts-a", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        search = Search(problem, by, self.temperature, self.rollout)
        arms: defaultdict[Node, Arms] = defaultdict(Arms)
        while search.begun < self.n:
            chance = np.random.Generator(np.random.PCG64(at.seed()))
            leaves: list[Node] = []
            for _ in range(min(self.batch, self.n - search.begun)):
                leaves.append(self.descend(search.root, arms, chance))
                leaves[-1].begin()
                self.learn(leaves[-1], arms)
            reached = await search.simulate(leaves, at)
            for _, score in reached:
                self.check(score)
            for node in dict.fromkeys([*leaves, *(node for node, _ in reached)]):
                self.learn(node, arms)
        return await search.finished(at)

    def check(self, score: float) -> None:
        if self.prior == "beta" and not 0 <= score <= 1:
            told = f"one was {score:g}; prior=normal takes any"
            raise ModelError(f"ab-mcts-a: prior=beta needs grades in [0, 1], and {told}")

    def descend(self, node: Node, arms: defaultdict[Node, Arms], chance: np.random.Generator) -> Node:
        """The node from which the next step is to be drawn."""
        while (child := self.deeper(node, arms[node], chance)) is not None:
            node = child
        return node

    def deeper(self, node: Node, arms: Arms, chance: np.random.Generator) -> Node | None:
        """The child to go on with, or None to go wider."""
        if not arms.children:
            return None
        posterior, draw = PRIORS[self.prior]
        below = node.pending - node.drawing
        wider, deeper = draw(columns([posterior(node.wider, node.drawing), posterior(node.deeper, below)]), chance)
        return None if wider >= deeper else arms.children[int(draw(arms.known, chance).argmax())]

    def learn(self, node: Node, arms: defaultdict[Node, Arms]) -> None:
        """Note what is now known of this node and those above it."""
        posterior, _ = PRIORS[self.prior]
        for child in node.path():
            if child.parent is not None and not child.closed:
                arms[child.parent].put(child, posterior(child.below, child.pending))
