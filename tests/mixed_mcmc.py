"""A slow, independent fit of AB-MCTS-M's mixed model: Gibbs sampling in full, many chains side by side.

Nothing of `methods/mixed` is used, and no variable is integrated out: mu, sigma_a, sigma_y and every alpha_j are sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
FLOOR = 0.01  # of sigma_y, as in the method


def predictions(
    groups: Sequence[Sequence[float]], seed: int, chains: int = 400, warm: int = 400, steps: int = 800
) -> Floats:
    """Draws of the next score of a new group (column 0) and of each group, by MCMC."""
    chance = np.random.default_rng(seed)
    n = np.array([len(g) for g in groups], dtype=float)
    total = np.array([sum(g) for g in groups])
    squares = sum(x * x for g in groups for x in g)
    mu = chance.normal(0.5, 0.2, chains)
    scale_a, scale_y = abs(chance.normal(0, 0.2, chains)), FLOOR + abs(chance.normal(0, 0.3, chains))
    z = chance.normal(size=(chains, len(groups)))
    made = []
    for step in range(warm + steps):
        alpha = mu[:, None] + scale_a[:, None] * z
        # alpha_j given all else
        precision = 1 / scale_a[:, None] ** 2 + n / scale_y[:, None] ** 2
        centre = (mu[:, None] / scale_a[:, None] ** 2 + total / scale_y[:, None] ** 2) / precision
        alpha = centre + chance.normal(size=alpha.shape) / np.sqrt(precision)
        # mu given all else
        p = 1 / 0.2**2 + len(groups) / scale_a**2
        mu = (0.5 / 0.2**2 + alpha.sum(1) / scale_a**2) / p + chance.normal(size=chains) / np.sqrt(p)
        z = (alpha - mu[:, None]) / scale_a[:, None]

        def log_density(a: Floats, y: Floats, mu: Floats = mu, z: Floats = z) -> Floats:
            """Of (sigma_a, sigma_y) given mu and z: moving sigma_a moves every alpha with it, which mixes where it is small."""
            alpha = mu[:, None] + a[:, None] * z
            misfit = squares - 2 * (alpha * total).sum(1) + (n * alpha**2).sum(1)
            value = -(a**2) / (2 * 0.2**2) - y**2 / (2 * 0.3**2) - n.sum() * np.log(y) - misfit / (2 * y**2)
            return np.where(y > FLOOR, value, -np.inf) + np.log(a) + np.log(y)

        for size in (1.0, 0.3, 0.08):  # random walks in the logarithms
            for which in (0, 1):
                jump = np.exp(size * chance.normal(size=chains))
                a, y = (scale_a * jump, scale_y) if which == 0 else (scale_a, scale_y * jump)
                take = np.log(chance.random(chains)) < log_density(a, y) - log_density(scale_a, scale_y)
                scale_a, scale_y = np.where(take, a, scale_a), np.where(take, y, scale_y)
        scale_a = np.maximum(scale_a, 1e-6)
        if step >= warm and step % 4 == 0:
            alpha = mu[:, None] + scale_a[:, None] * z
            new = mu + scale_a * chance.normal(size=chains)
            every = np.column_stack([new, alpha])
            made.append(every + scale_y[:, None] * chance.normal(size=every.shape))
    return np.concatenate(made)


def wins(draws: Floats, seed: int) -> Floats:
    """How often each column has the largest of independent draws, one from each column."""
    chance = np.random.default_rng(seed)
    alone = np.column_stack([chance.permutation(column) for column in draws.T])
    return np.bincount(alone.argmax(1), minlength=alone.shape[1]) / len(alone)
