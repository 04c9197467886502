"""Ballots: what finished drafts say, and how their votes add up."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import UNKNOWN, Draft
from forethought.core.errors import BudgetEnded
from forethought.core.population import Particle, Population, posterior
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import answers, sampler_of
from forethought.selection.protocol import Counting, Ranked, Verdict
from forethought.verifiers.protocol import Aggregation, aggregate

Numbers = NDArray[np.float64]
Indices = NDArray[np.intp]
UNREADABLE = -1


@dataclass(frozen=True)
class Pool:
    """Drafts as columns. `answer` is the number of each draft's answer among those of its problem, or UNREADABLE.

    Numbers are given in the order in which answers are first seen. `position` is a draft's place in its population,
    `verifier` the name of the grades that are meant, `problem` the number of the problem it belongs to, `textless` the
    places of the drafts whose texts nobody told (recorded samples).
    """

    drafts: Sequence[Draft]
    said: Sequence[str | None]
    answer: Indices
    position: Indices
    problem: Indices
    verifier: str | None = None
    textless: Collection[int] = ()

    @cached_property
    def text(self) -> Indices:
        """Equal texts have equal numbers; a text that nobody told is one of its own."""
        numbers: dict[str | int, int] = {}
        texts = (i if i in self.textless else draft.text for i, draft in enumerate(self.drafts))
        return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.intp)

    @cached_property
    def sampler(self) -> Indices:
        """Who drew each draft, where there are several samplers: what its beginning tells, else its place."""
        known = map(sampler_of, self.drafts)
        told = (place if own is None else own for own, place in zip(known, self.position.tolist(), strict=True))
        return np.fromiter(told, dtype=np.intp, count=len(self.drafts))

    @cached_property
    def logprob(self) -> Numbers:
        """The mean log-probability of each draft's tokens; NaN where the model told none."""
        return np.array([mean_logprob(draft) for draft in self.drafts])

    def grade(self, steps: Aggregation) -> Numbers:
        """Each draft's grade as one number; NaN where it is unknown."""
        if steps not in self._grades:
            grades = (draft.grades.get(self.verifier or "", UNKNOWN) for draft in self.drafts)
            self._grades[steps] = np.array([aggregate(grade, steps) for grade in grades], dtype=float)
        return self._grades[steps]

    @cached_property
    def _grades(self) -> dict[Aggregation, Numbers]:
        return {}


def mean_logprob(draft: Draft) -> float:
    """Over all tokens that were drawn, from the root on; a text that was put there (a hint) has none."""
    pieces = [piece.logprobs for piece in draft.lineage() if piece.logprobs]
    count = sum(map(len, pieces))
    return sum(map(sum, pieces)) / count if count else float("nan")


@dataclass(frozen=True)
class Votes:
    """Ballots as arrays: a row is one population (or one choice of `n` recorded samples), a column a draft.

    `rows` are indices into the pool, `weight` the posterior weights, each row of which sums to one, `classes` how many
    answers a problem has at most.
    """

    pool: Pool
    rows: Indices
    weight: Numbers
    classes: int

    @cached_property
    def answer(self) -> Indices:
        return self.pool.answer[self.rows]

    @cached_property
    def readable(self) -> NDArray[np.bool_]:
        return np.asarray(self.answer != UNREADABLE)

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(rows, classes): whether anybody in the row gives this answer."""
        return self.sums(np.ones(self.rows.shape))[:, :-1] > 0

    @property
    def unread(self) -> Numbers:
        """The weight in each row of the drafts that cannot be read."""
        return np.asarray((self.weight * ~self.readable).sum(1))

    def grade(self, steps: Aggregation) -> Numbers:
        return self.pool.grade(steps)[self.rows]

    def sums(self, scores: Numbers) -> Numbers:
        """(rows, classes + 1): the scores of each answer's ballots added up; last those that cannot be read."""
        return binned(self._cells, scores, (len(self.rows), self.classes + 1))

    def tops(self, scores: Numbers, floor: float = 0.0) -> Numbers:
        """(rows, classes + 1): the highest score of each answer's ballots, `floor` where there is none; last the unreadable."""
        found = np.full(len(self.rows) * (self.classes + 1), floor)
        np.maximum.at(found, self._cells, np.ascontiguousarray(scores, dtype=float).ravel())
        return found.reshape(len(self.rows), self.classes + 1)

    @cached_property
    def _cells(self) -> Indices:
        """Each ballot's place in a flat (rows, classes + 1) table."""
        return placed(self.answer, self.classes + 1)

    def by_sampler(self, samplers: int) -> Numbers:
        """(rows, samplers, classes): votes by who drew them, modulo `samplers`; a row has n in all."""
        kind = self.pool.sampler[self.rows] % samplers * (self.classes + 1) + self.answer % (self.classes + 1)
        shape = (len(self.rows), samplers, self.classes + 1)
        cells = placed(kind, samplers * (self.classes + 1))
        return binned(cells, self.weight * self.rows.shape[1], shape)[:, :, :-1]


def binned(cells: Indices, scores: Numbers, shape: tuple[int, ...]) -> Numbers:
    """A table of this shape, of the scores added up by their places in it."""
    return np.bincount(cells, scores.ravel(), math.prod(shape)).reshape(shape).astype(float, copy=False)


def placed(kinds: Indices, count: int) -> Indices:
    """The place of each entry in a flat table with `count` kinds a row; a kind of -1 is the last one."""
    return np.asarray((kinds % count + np.arange(len(kinds))[:, None] * count).ravel())


@dataclass(frozen=True)
class Tally:
    """What a row's ballots come to: the probability of each answer, its rank, and who speaks for it.

    `share` is (rows, classes); what is missing to one has been cast for no answer. `rank` orders answers, those of -inf are
    not in the verdict. `voice` is (rows, n): of those who give the winning answer, the highest speaks, ties to the lower index.
    """

    share: Numbers
    rank: Numbers
    voice: Numbers

    @cached_property
    def confidence(self) -> Numbers:
        return np.asarray(self.share.max(1, initial=0.0))

    @cached_property
    def leading(self) -> NDArray[np.bool_]:
        """The answers that share the first place; none where the verdict abstains."""
        top = self.confidence[:, None]
        return np.asarray((self.share >= top * (1 - 1e-12)) & (top > 0))


def voted(votes: Votes, scores: Numbers, combine: Literal["sum", "max"] = "sum") -> Tally:
    """Each answer's share of all scores; who cannot be read adds to no answer.

    Ranks are without the last bits, in which equal sums differ by the order in which they were added up.
    """
    classes = votes.sums(scores) if combine == "sum" else votes.tops(scores)
    total = classes.sum(1, keepdims=True)
    share = np.divide(classes, total, out=np.zeros_like(classes), where=total > 0)[:, :-1]
    return Tally(share, np.where(votes.present, share.round(12), -np.inf), scores)


async def polled(pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Votes:
    """The ballots of one population, as one row: its finished, living drafts in index order."""
    voters, weights, places = electorate(pop)
    said, numbers = await answers(voters, problem, by, at), dict[str, int]()
    answer = [UNREADABLE if a is None else numbers.setdefault(a, len(numbers)) for a in said]
    name = None if by.verifier is None else str(by.verifier)
    drafts = [p.state for p in voters]
    pool = Pool(drafts, said, np.array(answer, dtype=np.intp), places, np.zeros_like(places), name)
    return Votes(pool, np.arange(len(drafts))[None], weights[None], len(numbers))


def electorate(pop: Population[Draft]) -> tuple[list[Particle[Draft]], Numbers, Indices]:
    """Who votes, with their posterior weights and their places in the population. The dead do not vote."""
    places = [i for i, p in enumerate(pop) if p.state.finished]
    weights = posterior([pop[i] for i in places])
    alive = np.flatnonzero(weights)
    living = [places[i] for i in alive.tolist()]
    return [pop[i] for i in living], weights[alive], np.array(living, dtype=np.intp)


def verdict_of(tally: Tally, votes: Votes) -> Verdict:
    """The verdict on the first row."""
    if not votes.classes or not tally.confidence[0] > 0:
        return Verdict()
    order = [int(c) for c in np.argsort(-tally.rank[0], kind="stable") if tally.rank[0, c] > -np.inf]
    speakers = np.flatnonzero(votes.answer[0] == order[0])
    chosen = speakers[tally.voice[0, speakers].argmax()]
    names = {c: votes.pool.said[int(np.argmax(votes.answer[0] == c))] or "" for c in order}
    shares = tally.share[0].tolist()
    ranked = tuple(Ranked(names[c], shares[c]) for c in order)
    return Verdict(ranked, votes.pool.drafts[int(votes.rows[0, chosen])], max(0.0, 1 - sum(shares)))


async def counted(selection: Counting, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
    """Grade what the selection wants graded, and count."""
    if "grades" in selection.needs:
        pop = await graded(pop, problem, by, at)
    votes = await polled(pop, problem, by, at)
    return verdict_of(selection.tally(votes), votes) if votes.classes else Verdict()


async def graded(pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Population[Draft]:
    """The finished drafts with grades, as far as the budget goes; the others stay ungraded, which is unknown."""
    finished: list[Particle[Draft]] = [p for p in pop if p.state.finished]
    name = str(by.verifier)
    if finished and all(name in p.state.grades for p in finished):
        return finished
    with at.timed():
        try:
            return await by.grade(finished, problem, at)
        except BudgetEnded:
            pass
    at.run.short = True
    return finished if at.kept is None else at.kept
