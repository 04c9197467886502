from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population, posterior
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import Assorted, answers
from forethought.methods.protocol import Law, Need, methods

HINT = "{text}\n\nHint: the answer is probably close to {answer}."


async def shares(pop: Population[Draft], problem: Problem, by: By, at: Scope) -> dict[str, float]:
    """The distribution of the answers, by the drafts' weights; who cannot be read has no part in it."""
    found: defaultdict[str, float] = defaultdict(float)
    for weight, answer in zip(posterior(pop), await answers(pop, problem, by, at), strict=True):
        if answer is not None:
            found[answer] += float(weight)
    total = math.fsum(found.values())
    return {answer: share / total for answer, share in found.items()}


@methods.register("hint-marginalization")
@dataclass(frozen=True)
class HintMarginalization:
    """Rounds of drafts that are told an answer of the round before, mixed by how likely that answer was.

    p_0 is the vote of `n` plain drafts; p_r(y) = sum over y' of p_(r-1)(y') * P(y | hint y'), each term estimated from
    about n * p_(r-1)(y') drafts, at least one. The last round's drafts carry the weights of that mixture, so `majority` is
    its mode. Rounds end early when an answer has a share of `sure`.
    Law: greedy; drafts under a hint are no drafts of the model. `rounds=0` is `sample(n)`.
    Constants: the recursion is published; the wording of the hint after its description; n, `rounds`, `sure` are ours.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"instructions"})
    paper: ClassVar[str] = "Pal et al. 2024, arXiv:2412.13292 (Hint Marginalization)"

    n: int = 16
    rounds: int = 2
    sure: float = 0.9
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, rounds=0, temperature=0)
        require(0 < self.sure <= 1, f"hint-marginalization: sure is a share, above 0 and at most 1, not {self.sure}")

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        pop = await each(branch([Particle(ROOT)], [self.n]), by.draft(problem, self.temperature), at)
        for _ in range(self.rounds):
            likely = await shares(pop, problem, by, at)
            if not likely or max(likely.values()) >= self.sure:
                break
            told = [replace(problem, text=HINT.format(text=problem.text, answer=answer)) for answer in likely]
            draft = Assorted([by.draft(hinted, self.temperature) for hinted in told])
            roots = [Particle(root, math.log(p)) for root, p in zip(draft.roots, likely.values(), strict=True)]
            new = branch(roots, [max(1, round(self.n * p)) for p in likely.values()])
            pop = (await each([*pop, *new], draft, at))[len(pop) :]
        return pop
