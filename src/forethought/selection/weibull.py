"""Mixtures of two Weibull laws, by maximum likelihood: which of some numbers belong to the higher one."""

from __future__ import annotations

from dataclasses import dataclass
from math import lgamma

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
ROUNDS, NEWTON, ENOUGH = 200, 3, 1e-7  # of EM, of the inner equation, and the gain a number that ends it
LEAST_SHARE, LEAST, STEEPEST = 0.2, 0.01, 200.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """One mixture a row: `share` of the first law, and (2, rows, 1) shapes and scales of both."""

    share: Numbers
    shape: Numbers
    scale: Numbers

    def densities(self, logs: Numbers) -> Numbers:
        """(2, rows, n): the log-density of each number, given its logarithm, times the share of the law."""
        ratio = self.shape * (logs - np.log(self.scale))
        shares = np.log(np.stack([self.share, 1 - self.share]))
        return np.asarray(shares + np.log(self.shape) - logs + ratio - np.exp(ratio.clip(max=700.0)))

    @property
    def high(self) -> NDArray[np.bool_]:
        """(rows, 1): whether the first law is the one with the larger mean."""
        mean = self.scale * np.exp(np.vectorize(lgamma, otypes=[float])(1 + 1 / self.shape))
        return np.asarray(mean[0] > mean[1])


def fit(x: Numbers) -> Mixture:
    """Rows of positive numbers to a mixture a row, from the published start (share 0.5, Weibull(1, 1), Weibull(1.5, 2)).

    EM, whose inner steps solve the likelihood equations under the published bounds: shares in [0.2, 0.8], shapes and scales
    at least 0.01. Shapes of at most 200 are ours: a law on equal numbers has no maximum.
    """
    logs = np.log(x)
    rows = (len(x), 1)
    shapes = np.stack([np.full(rows, 1.0), np.full(rows, 1.5)])
    mixture = Mixture(np.full(rows, 0.5), shapes, np.stack([np.full(rows, 1.0), np.full(rows, 2.0)]))
    before = np.full(len(x), -np.inf)
    for _ in range(ROUNDS):
        dense = mixture.densities(logs)
        total = np.logaddexp(dense[0], dense[1])
        belongs = np.exp(dense - total)
        mixture = improved(mixture, logs, belongs)
        now = total.mean(1)
        if (now - before < ENOUGH).all():
            break
        before = now
    return mixture


def improved(mixture: Mixture, logs: Numbers, belongs: Numbers) -> Mixture:
    """One step of EM: the parameters that fit best if each number belongs to the laws by these chances."""
    mass = np.maximum(belongs.sum(2, keepdims=True), 1e-12)
    middle = (belongs * logs).sum(2, keepdims=True) / mass
    top = logs.max(1, keepdims=True)
    shape = mixture.shape
    for _ in range(NEWTON):  # on log(shape); the equation increases in it
        powers = belongs * np.exp(shape * (logs - top))
        first = np.maximum(powers.sum(2, keepdims=True), 1e-300)
        mean = (powers * logs).sum(2, keepdims=True) / first
        spread = (powers * (logs - mean) ** 2).sum(2, keepdims=True) / first
        step = (mean - middle - 1 / shape) / (shape * spread + 1 / shape)
        shape = (shape * np.exp(-step.clip(-1, 1))).clip(LEAST, STEEPEST)
    powers = belongs * np.exp(shape * (logs - top))
    scale = np.exp(top + np.log(np.maximum(powers.sum(2, keepdims=True) / mass, 1e-300)) / shape)
    share = (mass[0] / mass.sum(0)).clip(LEAST_SHARE, 1 - LEAST_SHARE)
    return Mixture(share, shape, np.maximum(scale, LEAST))


def likely_high(x: Numbers) -> NDArray[np.bool_]:
    """(rows, n): whether each number more likely belongs to the law with the larger mean than to the other."""
    mixture = fit(x)
    first, second = mixture.densities(np.log(x))
    return np.asarray(np.where(mixture.high, first >= second, second >= first))
