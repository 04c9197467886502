from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import Draft
from forethought.core.operators import each, prune
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.keeping import keeping
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.steps import answers_first, by_grade, families, grade_different


@methods.register("dvts")
@dataclass(frozen=True)
class Dvts:
    """Diverse verifier tree search: `n` / `expand` subtrees that share nothing, each a beam of one.

    Each round every subtree draws `expand` steps and goes on from the best one. It ends when its best one has ended; then the
    finished of its last round's drafts come back, so that a tree gives up to `expand` answers that differ in their last step.
    Law: greedy; each subtree follows what the verifier likes best. Weights are equal. With one subtree its best draft is that
    of `beam(width=1)`; with `expand=1` it is `n` samples.
    Constants as in search-and-learn: expand 4, temperature 0.8; its n is 4 to 256 and a multiple of expand. Its look-ahead,
    off by default there, is left out.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = (
        "Beeching et al. 2024, Scaling test-time compute with open models, and its code, search-and-learn"
    )

    n: int = 16
    expand: int = 4
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, expand=1, temperature=0)
        require(self.n % self.expand == 0, f"dvts: n must be a multiple of expand {self.expand}, not {self.n}")
        check_step("dvts", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step, rank = by.step(problem, self.temperature), by_grade(by)
        heads = [Particle(Draft()) for _ in range(self.n // self.expand)]  # roots of their own keep the trees apart
        made: list[Particle[Draft]] = []
        while heads:
            with keeping(made, at):
                drawn = await each([head for head in heads for _ in range(self.expand)], step, at)
                drawn = await grade_different(drawn, by, problem, at)
            trees = [prune(tree, self.expand, key=rank) for tree in families(drawn)]
            made += [p for tree in trees if tree[0].ended for p in tree]
            heads = [tree[0] for tree in trees if not tree[0].ended]
            at.keep([*made, *(p for tree in trees if not tree[0].ended for p in tree)])
        return answers_first(made)
