from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.balance import allocation, balanced, shared_out
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.programme import installed, kept, likeness
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.steps import by_grade


@methods.register("ets")
@dataclass(frozen=True)
class Ets:
    """ETS, efficient tree search: REBASE on a tree that is thinned first, so that fewer nodes have to stay in the KV cache.

    Each round an integer programme chooses which steps are kept: it maximises the sum of their REBASE shares, less `cost`
    times the part of the tree's nodes that they keep alive (ancestors too), plus `coverage` times the part of the clusters of
    steps that they cover. The width is then spread over those kept. Two steps are near where they have the same words,
    numbers and signs, however they are ordered and spelled (average linkage, cosine distance, cut at `likeness`).
    Law: greedy; as `rebase`. The `n` drafts have equal weights. With `cost=0` nothing is dropped and this is `rebase`.
    Needs scipy. Constants as in the released code: temper 0.2, cost 1, coverage 1.5 for n 16 (1.4 for 64), likeness 0.05. It
    clusters embeddings of the steps; the counts in place of them are ours.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Hooper et al. 2025, arXiv:2502.13575 (ETS), and its released code"

    n: int = 16
    temper: float = 0.2
    cost: float = 1.0
    coverage: float = 1.5
    likeness: float = 0.05
    temperature: float = 1.0
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, temper=0, cost=0, coverage=0, likeness=0, temperature=0)
        check_step("ets", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        installed()
        rank, shares = by_grade(by), shared_out(by, self.temper)

        def share(pop: Population[Draft], width: int) -> list[int]:
            wanted = shares(pop, width)
            near = likeness([p.state.new for p in pop], self.likeness)
            stay = kept([p.state for p in pop], [w / sum(wanted) for w in wanted], near, self.cost, self.coverage)
            left = [rank(p) if ok else None for p, ok in zip(pop, stay, strict=True)]
            counts = iter(allocation([r for r in left if r is not None], width, self.temper))
            return [0 if r is None else next(counts) for r in left]

        return await balanced(self.n, share, by.step(problem, self.temperature), problem, by, at)
