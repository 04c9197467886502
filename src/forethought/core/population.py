"""Weighted populations. A population denotes the measure  sum_i exp(logw_i) * delta(state_i)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

S = TypeVar("S")  # a draft, a latent, a board: any immutable state


@dataclass(frozen=True, slots=True)
class Particle(Generic[S]):
    """One weighted state. Immutable: a fork is a shared reference, never a copy.

    `logw` is a natural logarithm; -inf means dead: such a particle counts as ended and is never drawn.
    NaN and +inf are errors.
    """

    state: S
    logw: float = 0.0
    done: bool = False

    def __post_init__(self) -> None:
        if not self.logw < math.inf:
            raise ValueError(f"a log-weight must be a number below +inf, not {self.logw}")

    @property
    def ended(self) -> bool:
        return self.done or self.logw == -math.inf

    def moved(self, state: S, *, gain: float = 0.0, done: bool = False) -> Particle[S]:
        """The particle after a step: a new state, and `gain` on its log-weight."""
        return Particle(state, self.logw + gain, done)


Population: TypeAlias = Sequence[Particle[S]]


def ended(pop: Population[S]) -> bool:
    """Whether no particle can move."""
    return all(p.ended for p in pop)


def log_weights(pop: Population[S]) -> NDArray[np.float64]:
    return np.array([p.logw for p in pop])


def posterior(pop: Population[S], temper: float = 1.0) -> NDArray[np.float64]:
    """Probabilities proportional to exp(logw / temper): positive for the living, all zero if all are dead, none of nobody."""
    if not 0 < temper < math.inf:
        raise ValueError(f"temper is a temperature and must be positive, not {temper}")
    logw = log_weights(pop) / temper
    top = logw.max(initial=-math.inf)
    if top == -math.inf:
        return np.zeros(len(pop))
    weights = np.where(logw > -math.inf, np.maximum(np.exp(logw - top), np.finfo(float).tiny), 0.0)
    return np.asarray(weights / weights.sum())


def ess(pop: Population[S]) -> float:
    """Effective sample size, 1 / sum of squared weights (Kong 1992): between 1 and len(pop); 0 if nobody lives."""
    weights = posterior(pop)
    total = float(weights @ weights)
    return 1 / total if total else 0.0


def log_evidence(pop: Population[S]) -> float:
    """The logarithm of the population's whole mass."""
    logw = log_weights(pop)
    top = float(logw.max(initial=-math.inf))
    return top if top == -math.inf else top + math.log(float(np.exp(logw - top).sum()))
