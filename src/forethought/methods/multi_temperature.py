from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import Draft
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import Assorted, answers, sampler_of, votes, windows
from forethought.methods.protocol import Law, Need, methods


@methods.register("multi-temperature")
@dataclass(frozen=True)
class MultiTemperature:
    """Drafts spread over temperatures, with a two-stage vote after each round that lets easy problems go early.

    A round draws `batch` drafts at each of `temperatures` temperatures, evenly spaced from `low` to `high`. A temperature
    is sure of its leading answer if that has a share of at least `intra` of its drafts; the round is the last if a share of
    at least `cross` of the temperatures are sure of one and the same answer. All drafts vote.
    Law: greedy; drafts of weight 1 from a mixture of tempered models, as many as the votes ask for. `batch * temperatures
    >= n` is one round of n drafts, and with one temperature a plain vote.
    Constants: intra 0.8 and cross 1.0 are a third party's; how rounds are cut and n are ours. Temperatures of 0 to 1.2 are
    usual; 0 would draw one draft again and again.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Wu et al. 2025, arXiv:2510.02611 (On the Role of Temperature Sampling in Test-Time Scaling)"

    n: int = 16
    low: float = 0.4
    high: float = 1.2
    temperatures: int = 4
    batch: int = 2
    intra: float = 0.8
    cross: float = 1.0

    def __post_init__(self) -> None:
        at_least(self, n=1, temperatures=1, batch=1)
        for name in ("intra", "cross"):
            value = getattr(self, name)
            require(0 < value <= 1, f"multi-temperature: {name} is a share, above 0 and at most 1, not {value}")
        require(
            0 <= self.low <= self.high, f"multi-temperature: 0 <= low <= high has to hold, not {self.low}, {self.high}"
        )

    @property
    def grid(self) -> list[float]:
        step = (self.high - self.low) / max(self.temperatures - 1, 1)
        return [self.low + i * step for i in range(self.temperatures)]

    def saved(self, made: Population[Draft]) -> int:
        return self.n - len(made)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        draft = Assorted([by.draft(problem, temperature) for temperature in self.grid])

        def sure(said: Sequence[str | None]) -> str | None:
            answer, count = (*votes(said), (None, 0))[0]
            return answer if count >= self.intra * len(said) else None

        async def easy(pop: Population[Draft], _: Population[Draft]) -> bool:
            said: list[list[str | None]] = [[] for _ in self.grid]
            for particle, answer in zip(pop, await answers(pop, problem, by, at), strict=True):
                said[sampler_of(particle.state) or 0].append(answer)
            winners = Counter(map(sure, said))
            del winners[None]
            return max(winners.values(), default=0) >= self.cross * self.temperatures

        window = [Particle(root) for _ in range(self.batch) for root in draft.roots]
        return await windows(draft, window, self.n, at, easy)
