"""Intervals by resampling problems, and how well grades tell right from wrong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

DRAWS, SEED = 2000, 0


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap of the mean over problems: 2,000 draws, fixed seed. (0, 0) for no values."""
    if not values:
        return 0.0, 0.0
    data = np.asarray(values, dtype=float)
    picks = np.random.default_rng(SEED).integers(len(data), size=(DRAWS, len(data)))
    low, high = np.quantile(data[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def area_under_curve(right: ArrayLike, scores: ArrayLike) -> float:
    """The chance that something right scores above something wrong, ties by half; NaN if either is missing.

    By mid-ranks (Mann-Whitney), so in the time of a sort.
    """
    labels = np.asarray(right, dtype=bool)
    _, place, counts = np.unique(np.asarray(scores, dtype=float), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    good, bad = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad)) if good and bad else float("nan")
