"""Answer, or better not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np

from forethought.core.draft import ROOT, Draft
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import read
from forethought.selection.calibrated import counting, outcomes
from forethought.selection.information import information
from forethought.selection.protocol import Known, Need, Verdict, selections
from forethought.selection.votes import Tally, Votes, counted
from forethought.tasks.classes import merged


@selections.register("abstain")
@dataclass(frozen=True)
class Abstain:
    """The verdict of the selection `of` if its confidence is at least `threshold`; else none at all.

    `fit` puts the threshold at the lowest confidence from which on (wrong + 1) / (answered + 1) is at most `risk` on the
    problems it is shown. `threshold=0` never abstains.

    `test=information` asks besides how much the prompt's own content speaks for the answer (ISR): `skeletons` copies of the
    problem with growing shares of their words masked are answered `n` times each, and the answer stands if what the whole
    prompt adds to its probability is at least what `risk` needs, by a `margin` in nats. It costs skeletons * n drafts more,
    which nobody grades, and needs a model that reads instructions: a masked problem is none of a generated task.
    What does not fit the budget is left out; with no skeleton answered, it abstains.
    Constants: 6 skeletons, 5 samples, temperature 0.3, masks of 0.25 to 0.9, 12 nats, risk 0.05, margin 0.2 are published;
    samples' shares are smoothed as (count + 1) / (n + 2), and which words are masked is drawn by place; both ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = (
        "El-Yaniv and Wiener 2010 (selective classification); Chlon et al. 2025, arXiv:2509.11208 (ISR)"
    )

    threshold: float = 0.0
    risk: float = 0.05
    of: str = "majority"
    test: Literal["confidence", "information"] = "confidence"
    skeletons: int = 6
    n: int = 5
    margin: float = 0.2
    temperature: float = 0.3

    def __post_init__(self) -> None:
        at_least(self, skeletons=1, n=1, margin=0, temperature=0)
        require(0 <= self.threshold <= 1, f"abstain: threshold lies between 0 and 1, not {self.threshold}")
        require(0 < self.risk < 1, f"abstain: risk lies between 0 and 1, not {self.risk}")
        asks: frozenset[Need] = frozenset({"instructions"} if self.test == "information" else ())
        object.__setattr__(self, "needs", counting(self.of, "abstain").needs | asks)

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        found = await counted(replace(self, test="confidence"), pop, problem, by, at)
        if self.test == "confidence" or found.answer is None:
            return found
        weakened = await self._weakened(found.answer, problem, by, at)
        if not weakened:
            return Verdict()
        count = sum(p.state.finished for p in pop)
        sure = (found.confidence * count + 1) / (count + 2)
        told = information(sure, weakened, self.n, self.risk)
        return found if told.ratio >= 1 and told.delta >= told.needed + self.margin else Verdict()

    async def _weakened(self, answer: str, problem: Problem, by: By, at: Scope) -> list[float]:
        """The chance of the answer under each weakened prompt that the budget had room for."""
        step = (0.9 - 0.25) / max(self.skeletons - 1, 1)
        chances: list[float] = []
        for k in range(self.skeletons):
            masked = replace(problem, text=weaker(problem.text, 0.25 + k * step, at))
            with at.inside() as place:
                pop = await self._drafts(masked, by, place)
            if pop is None:
                at.run.short = True
                break
            chances.append(await chance(answer, pop, problem, by, at))
        return chances

    async def _drafts(self, masked: Problem, by: By, at: Scope) -> Population[Draft] | None:
        """The answers to a masked problem, which nobody grades; None if tokens or time ended before all were there."""
        draft = replace(by, grade_drafts=False).draft(masked, self.temperature)
        with at.timed():
            try:
                return await each(branch([Particle(ROOT)], [self.n]), draft, at)
            except BudgetEnded:
                pass
        return None

    def tally(self, votes: Votes) -> Tally:
        if self.test == "information":
            raise UsageError(
                "abstain(test=information) asks the model again, so recorded samples are not enough for it"
            )
        tally = counting(self.of, "abstain").tally(votes)
        stands = tally.confidence[:, None] >= self.threshold - 1e-12
        return Tally(tally.share * stands, np.where(stands, tally.rank, -np.inf), tally.voice)

    def fit(self, known: Sequence[Known]) -> Self:
        """The lowest threshold that keeps the risk; raises UsageError if none does."""
        sure, right = outcomes(counting(self.of, "abstain"), known)
        order = (-sure).argsort(kind="stable")
        sure, wrong = sure[order], (1 - right[order]).cumsum()
        last = np.append(sure[1:] < sure[:-1], True)  # problems of one confidence are answered together
        safe = last & ((wrong + 1) / (np.arange(len(sure)) + 2) <= self.risk)
        if not safe.any():
            raise UsageError(f"abstain: no threshold keeps the risk at {self.risk:g} on these {len(sure)} problems")
        threshold = math.floor(float(sure[np.flatnonzero(safe)[-1]]) * 1e6) / 1e6
        return replace(self, threshold=threshold)


def weaker(text: str, share: float, at: Scope) -> str:
    """The text with about this share of its words masked, drawn at this place."""
    words = text.split(" ")
    hidden = at.draws([1 - share, share], len(words))
    return " ".join("[...]" if hide else word for word, hide in zip(words, hidden.tolist(), strict=True))


async def chance(answer: str, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> float:
    """The smoothed share of the drafts that give this answer."""
    asked, *said = await merged([answer, *read(pop, problem, by)], by.task, problem, at)
    return (said.count(asked) + 1) / (len(pop) + 2)
