"""A tournament."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.asking import Matched, Merging
from forethought.selection.llm_choice import shuffled
from forethought.selection.protocol import Need, Ranked, Verdict, selections
from forethought.selection.votes import Votes, polled
from forethought.verifiers.comparing import Comparer

Order = Literal["knockout", "sort"]


@selections.register("pairwise")
@dataclass(frozen=True)
class Pairwise:
    """The winner of a tournament of comparisons, by a verifier that can compare, such as `judge`.

    One draft stands for each answer, the one with most weight. `order=knockout` needs one comparison less than there are
    answers and finds the winner; `order=sort` merges runs, with n log2 n comparisons at most, and ranks all. The draw, and
    who is shown first, are shuffled. A comparison that is even or cannot be read goes to the answer with more votes, and
    so does what the budget leaves undecided. Each place has half the probability of the place before it: that is an order
    and no more.
    A judge that always prefers the more voted answer makes it `majority`; with one answer nobody is asked.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"comparisons"})
    paper: ClassVar[str] = "Liusie et al. 2023, arXiv:2307.07889 (LLM comparative assessment)"

    order: Order = "knockout"

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = await polled(pop, problem, by, at)
        if not votes.classes:
            return Verdict()
        if not isinstance(by.verifier, Comparer):
            raise UsageError("pairwise needs a verifier that compares drafts, such as judge")
        drafts = speakers(votes)
        weight = tuple(votes.sums(votes.weight)[0, :-1].tolist())
        match = Matched(tuple(drafts), weight, by.verifier, problem, by.task, self.order == "knockout")
        order = await tournament(match, at)
        return verdict(order, drafts, votes)


def speakers(votes: Votes) -> list[Draft]:
    """The draft with most weight of each answer, ties to the lower index."""
    of = [np.flatnonzero(votes.answer[0] == c) for c in range(votes.classes)]
    return [votes.pool.drafts[int(own[votes.weight[0, own].argmax()])] for own in of]


async def tournament(match: Matched, at: Scope) -> list[int]:
    """The numbers of the answers, best first. Each round pairs neighbours, side by side."""
    runs: list[tuple[int, ...]] = [(i,) for i in shuffled(range(len(match.drafts)), at)]
    out: list[list[int]] = []  # who lost, round by round
    while len(runs) > 1:
        games, ended = await played(runs, match, at)
        runs = [game.order for game in games]
        if match.first:  # who has lost is out
            out.append([number for game in games for number in game.order[game.open :]])
            runs = [game.order[: game.open] for game in games]
        if ended:
            runs = [tuple(sorted((i for run in runs for i in run), key=lambda i: (-match.weight[i], i)))]
    return [*runs[0], *(number for lost in reversed(out) for number in lost)]


async def played(runs: Sequence[tuple[int, ...]], match: Matched, at: Scope) -> tuple[list[Merging], bool]:
    """One round, and whether the budget ended it."""
    games = [Particle(Merging(runs[i], runs[i + 1] if runs[i + 1 :] else ())) for i in range(0, len(runs), 2)]
    with at.timed():
        try:
            return [p.state for p in await each(games, match, at, failures="fail")], False
        except BudgetEnded:
            pass
    at.run.short = True
    return [p.state for p in at.kept or games], True


def verdict(order: Sequence[int], drafts: Sequence[Draft], votes: Votes) -> Verdict:
    odds = [0.5**place for place in range(len(order))]
    names = [votes.pool.said[int(np.argmax(votes.answer[0] == c))] or "" for c in order]
    return Verdict(
        tuple(Ranked(name, o / sum(odds)) for name, o in zip(names, odds, strict=True)), drafts[order[0]], 0.0
    )
