"""Simulations of a tree search: each draws one step from a leaf and scores what came of it.

Searches go in rounds: choose leaves with counts of what is pending, simulate them side by side, back up in order. So no
schedule can change a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.keeping import keeping
from forethought.methods.steps import key
from forethought.methods.tree import Node, back_up


@dataclass(slots=True)
class Search:
    """Simulations by one model and verifier; `found` is every finished draft they came to.

    With `rollout`, a step is scored by writing its draft to the end once and grading that; else by the grade of the draft
    up to the step. An unknown grade and a draft that was cut off score 0, below all others.
    """

    problem: Problem
    by: By
    temperature: float
    rollout: bool
    root: Node = field(default_factory=lambda: Node(ROOT))
    found: list[Particle[Draft]] = field(default_factory=list)
    begun: int = 0

    def __post_init__(self) -> None:
        verifier = self.by.verifier
        require(verifier is not None, "a tree search needs a verifier to score with")
        able = self.rollout or (verifier is not None and verifier.process)
        require(able, "a tree search with rollout=False needs a verifier that grades steps, such as process")

    async def simulate(self, leaves: Sequence[Node], at: Scope) -> list[tuple[Node, float]]:
        """Draw a step from each leaf, score all that came, back up in order. Returns the nodes reached and their scores.

        A leaf may occur more than once; `Node.begin` has been called for each. Simulations that failed and were dropped by
        the run's policy back up nothing. What ends a round also publishes all drafts found (`at.keep`).
        """
        self.begun += len(leaves)
        with keeping(self.found, at):
            step = self.by.step(self.problem, self.temperature)
            drawn = await each([Particle(leaf.draft) for leaf in leaves], step, at)
            owners = {id(leaf.draft): leaf for leaf in leaves}
            nodes = [owners[id(p.state.parent)].child(p.state) for p in drawn]
            ends = await self._graded(nodes, at) + (await self._rolled_out(nodes, at) if self.rollout else [])
        scored = [(node, self._score(draft)) for node, draft in ends]
        for leaf in leaves:
            leaf.end()
        for node, score in scored:
            back_up(node, score)
        return scored

    async def _graded(self, nodes: Sequence[Node], at: Scope) -> list[tuple[Node, Draft]]:
        """The nodes that are scored as they stand, with grades; each is graded once. Those dropped leave the tree."""
        standing = [n for n in nodes if n.draft.finish or not self.rollout]
        asked = list(dict.fromkeys(n for n in standing if n.draft.finish != "length"))
        graded = await self.by.grade([Particle(n.draft, done=n.closed) for n in asked], self.problem, at)
        drafts = {key(p.state): p.state for p in graded}
        for node in asked:
            if key(node.draft) in drafts:
                node.draft = drafts[key(node.draft)]
            else:
                node.leave()
        standing = [n for n in standing if n.draft.finish == "length" or key(n.draft) in drafts]
        self.found += [Particle(n.draft, done=True) for n in standing if n.draft.finished]
        return [(n, n.draft) for n in standing]

    async def _rolled_out(self, nodes: Sequence[Node], at: Scope) -> list[tuple[Node, Draft]]:
        """The unfinished nodes, each with a draft written to its end and graded, paid for together."""
        growing = [n for n in nodes if not n.draft.finish]
        owners = {id(n.draft): n for n in growing}
        finish = replace(self.by, grade_drafts=True).draft(self.problem, self.temperature)
        ends = await each([Particle(n.draft) for n in growing], finish, at)
        self.found += [p for p in ends if p.state.finished]
        return [(owners[id(p.state.parent)], p.state) for p in ends]

    def _score(self, draft: Draft) -> float:
        grade = None if draft.finish == "length" else self.by.value(draft)
        return 0.0 if grade is None else grade

    async def finished(self, at: Scope) -> list[Particle[Draft]]:
        """Every finished draft. Without rollouts the most visited unfinished one is written to its end first."""
        node, kernel = self.root, self.by.draft(self.problem, self.temperature)
        while node.children:
            node = max(node.children.values(), key=lambda child: child.below.n)
        if not self.rollout and not node.draft.finish:
            with keeping(self.found, at):
                ends = await each([Particle(node.draft)], kernel, at)
            self.found += ends
        return self.found
