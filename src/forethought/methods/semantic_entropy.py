from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import answers, votes
from forethought.methods.protocol import Law, Need, methods

SEEN = "{text}\n\nEarlier attempts at this problem ended in: {answers}. They may be wrong. Think again."


def entropy(said: Sequence[str | None]) -> float:
    """The entropy of the answers' shares, in nats; a draft that cannot be read is a class of its own."""
    counts = [count for _, count in votes(said)] + [1] * said.count(None)
    return math.fsum(c / len(said) * math.log(len(said) / c) for c in counts)


@methods.register("semantic-entropy")
@dataclass(frozen=True)
class SemanticEntropy:
    """Rounds of `n` parallel drafts that end when the answers of a round agree well enough (SEAT).

    With a `threshold`, stop at the first round whose entropy is at most that. Without one, by the secretary rule: look at
    ceil(rounds / e) rounds, then stop at the first whose entropy is no higher than the lowest so far. The last round is the
    population, so `majority` is its vote. `shown` tells each round the answers of the one before, as published; that
    needs a model that reads instructions, which the embedded reasoner does not. `threshold=-1` is `sample(n)`, last of many.
    Law: greedy; unless shown, drafts of the model in a round that was chosen for its agreement.
    Constants: n, rounds and the threshold (a low percentile over a calibration set) are not known exactly; ties count as
    low enough (ours), since few drafts have few entropies.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Xu et al. 2025, arXiv:2507.06829 (SEAT: adaptive termination by semantic entropy)"

    n: int = 4
    rounds: int = 4
    threshold: float | None = None
    shown: bool = False
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, rounds=1, temperature=0)
        if self.shown:
            object.__setattr__(self, "needs", self.needs | {"instructions"})

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        pop: list[Particle[Draft]] = []
        last: list[Particle[Draft]] = []
        said: list[str | None] = []
        seen: list[float] = []
        while len(seen) < self.rounds and not self._low_enough(seen):
            asked = replace(problem, text=self._told(said, problem)) if self.shown else problem
            before = len(pop)
            pop = await each([*pop, *[Particle(ROOT)] * self.n], by.draft(asked, self.temperature), at)
            last = pop[before:]
            said = await answers(last, problem, by, at)
            seen.append(entropy(said))
        return last

    def _low_enough(self, seen: Sequence[float]) -> bool:
        """Whether the last round may be the last."""
        if self.threshold is not None:
            return bool(seen) and seen[-1] <= self.threshold
        looked = math.ceil(self.rounds / math.e)
        return len(seen) > looked and seen[-1] <= min(seen[:-1])

    def _told(self, said: Sequence[str | None], problem: Problem) -> str:
        shown = ", ".join(f"{answer} ({count} times)" for answer, count in votes(said))
        return SEEN.format(text=problem.text, answers=shown) if shown else problem.text
