"""The mixed-effects model of AB-MCTS-M, solved exactly but for a grid over its two scales.

Scores y_ij = alpha_j + sigma_y * noise in group j, alpha_j = mu + sigma_a * noise, with mu ~ N(0.5, 0.2), sigma_a ~ half-normal
of scale 0.2, sigma_y ~ half-normal of scale 0.3. Given (sigma_a, sigma_y) all else is Gaussian, so the posterior is a
mixture over a grid of the two scales, and nothing has to be sampled to fit it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MU, SPREAD_MU, SPREAD_A, SPREAD_Y = 0.5, 0.2, 0.2, 0.3
FLOOR, CEILING = 0.01, 1.5
"""sigma_y ends at FLOOR: equal scores would drive it to 0, where the posterior has no bound. Scores count to two digits."""

Floats = NDArray[np.float64]


@functools.cache
def grid() -> tuple[Floats, Floats, Floats]:
    """The two variances at every cell of a 32 x 48 grid, and the logarithm of the cell's prior mass, up to a constant."""
    roots = (np.arange(32) + 0.5) / 32
    scale_a, width_a = roots**2, 2 * roots  # denser towards 0
    scale_y = FLOOR * (CEILING / FLOOR) ** ((np.arange(48) + 0.5) / 48)  # even in the logarithm
    prior_a = np.log(width_a) - scale_a**2 / (2 * SPREAD_A**2)
    prior_y = np.log(scale_y) - scale_y**2 / (2 * SPREAD_Y**2)
    var_a, var_y = np.meshgrid(scale_a**2, scale_y**2, indexing="ij")
    return var_a.ravel(), var_y.ravel(), np.add.outer(prior_a, prior_y).ravel()


@dataclass(frozen=True, slots=True)
class Posterior:
    """What is known of the groups: the mass of each grid cell, and mu's mean and variance in it."""

    n: Floats
    means: Floats
    mass: Floats
    mu: Floats
    var_mu: Floats

    def predict(self, chance: np.random.Generator, size: int = 1) -> Floats:
        """`size` draws of the next score: of a new group (column 0) and of each known one, each by itself."""
        var_a, var_y, _ = grid()
        edges = self.mass.cumsum()
        shape = (size, len(self.n) + 1)
        cell = np.searchsorted(edges, chance.random(shape) * edges[-1], side="right").clip(max=len(edges) - 1)
        a, y, mu, var_mu = var_a[cell], var_y[cell], self.mu[cell], self.var_mu[cell]
        keep = np.zeros(shape)  # how far alpha_j follows its group's own mean
        keep[:, 1:] = a[:, 1:] / (a[:, 1:] + y[:, 1:] / self.n)
        mean = (1 - keep) * mu + keep * np.append(0.0, self.means)
        variance = (1 - keep) * a + (1 - keep) ** 2 * var_mu + y
        draws: Floats = mean + np.sqrt(variance) * chance.standard_normal(shape)
        return draws


def fit(n: Sequence[int], totals: Sequence[float], squares: Sequence[float]) -> Posterior:
    """The posterior given each group's number of scores (at least 1), their sum and their sum of squares."""
    count, total = np.array(n, dtype=float), np.array(totals, dtype=float)
    means = total / count
    within = max(float(np.sum(np.array(squares, dtype=float) - total * means)), 0.0)  # below 0 only by rounding
    var_a, var_y, log_mass = grid()
    sizes, which = np.unique(count, return_inverse=True)  # groups of one size share their weights
    groups = np.bincount(which).astype(float)
    off = means - MU
    first, second = np.bincount(which, off), np.bincount(which, off**2)
    spread = var_a[:, None] + var_y[:, None] / sizes  # of a group's mean around mu
    precision = 1 / SPREAD_MU**2 + (groups / spread).sum(1)
    shift = (first / spread).sum(1) / precision
    log_mass = (
        log_mass
        - 0.5 * (groups * np.log(spread) + second / spread).sum(1)
        - 0.5 * ((count.sum() - len(count)) * np.log(var_y) + within / var_y)
        - 0.5 * np.log(precision)
        + 0.5 * precision * shift**2
    )
    return Posterior(count, means, np.exp(log_mass - log_mass.max()), MU + shift, 1 / precision)
