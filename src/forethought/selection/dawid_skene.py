"""Votes of unequal samplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.protocol import Known, Need, Verdict, selections
from forethought.selection.votes import Numbers, Tally, Votes, counted

ROUNDS, PRIOR, STRENGTH, SUREST = 50, 0.7, 2.0, 0.99


@selections.register("dawid-skene")
@dataclass(frozen=True)
class DawidSkene:
    """The posterior of the right answer when samplers differ in accuracy (temperatures, prompts): EM for both at once.

    Who made a draft is known where a method draws from several (each temperature of `multi-temperature`, each hint of
    `hint-marginalization`); else, as in recorded samples, draft i is by sampler i modulo `samplers`. A sampler is right
    with its own accuracy and else says any other of the answers seen, all alike (the one-coin model: answers of different
    problems have no confusion matrix in common). Accuracies are estimated on this population alone, or given: `fit` learns
    them from other populations, of which it need not know the right answers. Unreadable drafts do not vote.
    With one sampler, or equal accuracies above chance, the order is that of `majority`.
    Constants: an accuracy of 0.7 worth two votes as prior, at most 0.99, 50 rounds; all ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    paper: ClassVar[str] = "Dawid and Skene 1979; one coin: Zhang et al. 2014, arXiv:1406.3824"

    samplers: int = 4
    accuracies: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        at_least(self, samplers=1)
        if self.accuracies is not None:
            fits = len(self.accuracies) == self.samplers and all(0 < a < 1 for a in self.accuracies)
            require(fits, f"dawid-skene: accuracies are {self.samplers} numbers between 0 and 1, not {self.accuracies}")

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        counts = votes.by_sampler(self.samplers)
        others = choices(votes) - 1
        accuracy = np.full(counts.shape[:2], PRIOR) if self.accuracies is None else np.array(self.accuracies)[None]
        logs = likelihood(counts, accuracy, votes.present, others)
        for _ in range(ROUNDS if self.accuracies is None else 0):
            logs = likelihood(counts, accuracies(counts, normalised(logs)), votes.present, others)
        return Tally(normalised(logs), logs.round(9), votes.weight)  # sums in another order are ties all the same

    def fit(self, known: Sequence[Known]) -> Self:
        """The accuracies that explain these populations best, whatever their right answers."""
        fitted = replace(self, accuracies=None)
        accuracy = np.full(self.samplers, PRIOR)
        for _ in range(ROUNDS):
            agreed, cast = np.zeros(self.samplers), np.zeros(self.samplers)
            for votes, _ in known:
                counts = votes.by_sampler(self.samplers)
                share = normalised(likelihood(counts, accuracy[None], votes.present, choices(votes) - 1))
                agreed += (counts * share[:, None]).sum((0, 2))
                cast += counts.sum((0, 2))
            accuracy = ((agreed + STRENGTH * PRIOR) / (cast + STRENGTH)).clip(1 - SUREST, SUREST)
        return replace(fitted, accuracies=tuple(round(a, 4) for a in accuracy.tolist()))


def choices(votes: Votes) -> Numbers:
    """(rows, 1): how many answers there are to choose from: those seen, and at least two."""
    return np.asarray(np.maximum(votes.present.sum(1, keepdims=True), 2).astype(float))


def likelihood(counts: Numbers, accuracy: Numbers, present: NDArray[np.bool_], others: Numbers) -> Numbers:
    """(rows, classes): the log-likelihood of each answer, but for what all have in common, by (rows, samplers) accuracies."""
    gain = np.log(accuracy) - np.log((1 - accuracy) / others)
    return np.where(present, (counts * gain[:, :, None]).sum(1), -np.inf)


def normalised(logs: Numbers) -> Numbers:
    """Rows of log-weights as probabilities; none in a row where all are -inf."""
    top = logs.max(1, keepdims=True, initial=-np.inf)
    weights = np.exp(logs - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(1, keepdims=True)
    return np.asarray(np.divide(weights, total, out=np.zeros_like(weights), where=total > 0))


def accuracies(counts: Numbers, share: Numbers) -> Numbers:
    """(rows, samplers): how often each agrees with what is likely right, with the prior's votes."""
    agreed = (counts * share[:, None]).sum(2)
    return np.asarray(((agreed + STRENGTH * PRIOR) / (counts.sum(2) + STRENGTH)).clip(1 - SUREST, SUREST))
