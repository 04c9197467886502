"""Minimum Bayes risk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.protocol import Need, Verdict, selections
from forethought.selection.utilities import UTILITIES
from forethought.selection.votes import Numbers, Tally, Votes, counted, voted


@selections.register("mbr")
@dataclass(frozen=True)
class Mbr:
    """Minimum Bayes risk: the draft that is on average most like all others, by a utility of two texts.

    `utility` is `exact`, `words` (F1 of words), `letters` (F1 of groups of three letters) or one entered into
    `utilities.UTILITIES`; `of` says whether answers or whole texts are compared. An answer has the expected utility of the
    best of its drafts; probabilities are these, normalised. With `exact` utility of answers it is `majority`. Drafts that
    cannot be read neither vote nor stand. Time and memory grow with the square of the number of different texts.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Kumar and Byrne 2004 (MBR decoding); Bertsch et al. 2023, arXiv:2310.01387"

    utility: str = "exact"
    of: Literal["answer", "text"] = "answer"

    def __post_init__(self) -> None:
        require(
            self.utility in UTILITIES, f"mbr: there is no utility '{self.utility}'; there are {', '.join(UTILITIES)}"
        )
        if self.of == "text":
            object.__setattr__(self, "needs", self.needs | {"texts"})

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        if self.utility == "exact" and self.of == "answer":
            return voted(votes, votes.weight)
        gains = np.zeros(votes.rows.shape)
        problems = votes.pool.problem[votes.rows[:, 0]]
        for number in np.unique(problems):
            rows = problems == number
            gains[rows] = self._gains(votes, votes.rows[rows], votes.weight[rows])
        share = votes.tops(gains)[:, :-1]
        total = share.sum(1, keepdims=True)
        share = np.divide(share, total, out=np.zeros_like(share), where=total > 0) * (1 - votes.unread[:, None])
        return Tally(share, np.where(votes.present, share, -np.inf), gains)

    def _gains(self, votes: Votes, rows: Numbers, weight: Numbers) -> Numbers:
        """The expected utility of each draft, over the drafts of its row that can be read."""
        pool = votes.pool
        used = np.unique(rows)
        kind = {"answer": pool.answer, "text": pool.text}[self.of][used]
        _, first, item = np.unique(kind, return_index=True, return_inverse=True)
        texts = [(pool.said[i] or "") if self.of == "answer" else pool.drafts[i].text for i in used[first]]
        place = item[np.searchsorted(used, rows)]
        mass = np.zeros((len(rows), len(texts)))
        readable = pool.answer[rows] >= 0
        np.add.at(mass, (np.arange(len(rows))[:, None], place), weight * readable)
        expected = mass @ UTILITIES[self.utility](texts).T
        return np.asarray(np.take_along_axis(expected, place, 1) * readable)
