"""Two answers, one of them the trap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.dawid_skene import choices, normalised
from forethought.selection.protocol import Known, Need, Verdict, selections
from forethought.selection.votes import Numbers, Tally, Votes, polled, verdict_of

GRID = np.linspace(0.5, 0.99, 13)  # of the chance that an informed vote is for the right answer, not for the trap
RELIABILITIES = np.linspace(0.05, 0.95, 10)
ROUNDS = 30


@selections.register("top-two")
@dataclass(frozen=True)
class TopTwo:
    """The posterior of the right answer when each problem has one wrong answer that is nearly as tempting.

    A vote is informed with its sampler's reliability, else any of the answers alike; an informed one is for the right
    answer with a chance q of at least 1/2, the problem's own, else for the problem's trap. The posterior sums over all
    pairs of answer and trap and over q, uniform a priori; reliabilities are summed out too, one for all, unless given:
    `fit` learns those of `samplers` (who drew a draft is told as for `dawid-skene`) from other populations, right answers not
    needed. `choices` is how many answers there are to choose from (None: those seen). The second of the ranked answers is
    the runner-up. The verdict's note `confusion` is the posterior mean of 1 - q: 0.5 where an informed vote is a toss-up of
    answer and trap (the paper's confusion probability is q). Unreadable drafts do not vote.
    With one sampler the order is that of `majority`.
    Constants: q from 0.5 to 0.99, reliability from 0.05 to 0.95; the paper estimates in two stages where this sums exactly.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Jeong and Chung 2023, arXiv:2301.00006 (Recovering Top-Two Answers)"

    samplers: int = 1
    choices: int | None = None
    reliabilities: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        at_least(self, samplers=1, choices=2)
        if self.reliabilities is not None:
            fits = len(self.reliabilities) == self.samplers and all(0 < p < 1 for p in self.reliabilities)
            require(
                fits, f"top-two: reliabilities are {self.samplers} numbers between 0 and 1, not {self.reliabilities}"
            )

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        votes = await polled(pop, problem, by, at)
        if not votes.classes:
            return Verdict()
        confusion = float(self.confusion(votes)[0])
        return replace(verdict_of(self.tally(votes), votes), notes={"confusion": confusion})

    def tally(self, votes: Votes) -> Tally:
        counts = votes.by_sampler(self.samplers)
        logs = logsum(np.stack([logsum(self._joint(counts, votes, p)) for p in self._tried], -1))
        return Tally(normalised(logs), logs, votes.weight)

    def confusion(self, votes: Votes) -> Numbers:
        """(rows,): the posterior mean of the chance that an informed vote falls for the trap."""
        counts = votes.by_sampler(self.samplers)
        logs = logsum(np.stack([logsum(np.moveaxis(self._joint(counts, votes, p), 1, 2)) for p in self._tried], -1))
        return normalised(logs) @ (1 - GRID)

    @property
    def _tried(self) -> list[Numbers]:
        """The reliabilities that are summed over."""
        if self.reliabilities is not None:
            return [np.array(self.reliabilities)]
        return [np.full(self.samplers, p) for p in RELIABILITIES]

    def _choices(self, votes: Votes) -> Numbers:
        return np.maximum(choices(votes), self.choices or 2)

    def _joint(self, counts: Numbers, votes: Votes, reliability: Numbers) -> Numbers:
        """(rows, classes, q): the log-likelihood with each answer right, summed over traps."""
        right, trap, guess = self._chances(votes, reliability)
        none = counts.sum(2)[:, :, None] * np.log(guess)  # (rows, samplers, 1): nobody informed
        answer, decoy = (np.einsum("rsc,rsq->rcq", counts, np.log(chance / guess)) for chance in (right, trap))
        gone = ~votes.present[:, :, None]
        answer, decoy = np.where(gone, -np.inf, answer), np.where(gone, -np.inf, decoy)
        unseen = np.log(np.maximum(self._choices(votes) - votes.present.sum(1, keepdims=True), 1e-300))[:, :, None]
        others = logs_without(np.concatenate([decoy, np.broadcast_to(unseen, decoy[:, :1].shape)], 1))[:, :-1]
        return np.asarray(none.sum(1)[:, None] + answer + others)

    def _chances(self, votes: Votes, reliability: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """(rows, samplers, q): of a vote for the right answer, for the trap, and (q being nothing to it) for any other."""
        guess = ((1 - reliability) / self._choices(votes))[:, :, None]
        informed = reliability[None, :, None]
        return informed * GRID + guess, informed * (1 - GRID) + guess, guess

    def fit(self, known: Sequence[Known]) -> Self:
        """The reliabilities that explain these populations best, by EM over answers, traps, and who was informed."""
        reliability = np.full(self.samplers, 0.5)
        for _ in range(ROUNDS):
            informed, cast = np.ones(self.samplers), np.full(self.samplers, 2.0)  # a vote each way beforehand
            for votes, _ in known:
                counts = votes.by_sampler(self.samplers)
                informed += self._informed(counts, votes, reliability)
                cast += counts.sum((0, 2))
            reliability = (informed / cast).clip(0.01, 0.99)
        return replace(self, reliabilities=tuple(round(p, 4) for p in reliability.tolist()))

    def _informed(self, counts: Numbers, votes: Votes, reliability: Numbers) -> Numbers:
        """(samplers,): how many votes were informed, by expectation. The trap is the likeliest one for each answer."""
        joint = self._joint(counts, votes, reliability)
        weight = normalised(joint.reshape(len(joint), -1)).reshape(joint.shape)
        right, trap, guess = self._chances(votes, reliability)
        sure, lured = (right - guess) / right, (trap - guess) / trap
        decoys = counts.sum(1)
        order = decoys.argsort(1)[:, ::-1]
        second = order[:, 1] if decoys.shape[1] > 1 else order[:, 0]
        rival = np.where(np.arange(decoys.shape[1]) == order[:, :1], second[:, None], order[:, :1])
        fooled = np.take_along_axis(counts, rival[:, None, :], 2) * (decoys.shape[1] > 1)
        own = np.einsum("rsc,rcq,rsq->s", counts, weight, sure)
        return np.asarray(own + np.einsum("rsc,rcq,rsq->s", fooled, weight, lured))


def logsum(logs: Numbers) -> Numbers:
    """The logarithm of the sum over the last axis."""
    top = logs.max(-1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(logs - safe[..., None]).sum(-1)) + safe)


def logs_without(logs: Numbers) -> Numbers:
    """For each entry of axis 1, the logarithm of the sum of all others: exact for the largest, by difference for the rest."""
    top = logs.argmax(1)[:, None]
    largest = np.take_along_axis(logs, top, 1)
    rest = logs.copy()
    np.put_along_axis(rest, top, -np.inf, 1)
    others = logsum(np.moveaxis(rest, 1, -1))[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.exp(others - largest) - np.exp(rest - largest)
    found = largest + np.log1p(relative.clip(0.0))
    np.put_along_axis(found, top, others, 1)
    return np.asarray(found)
