"""Intervals by resampling problems, how well grades tell right from wrong, and the time that problems took together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of intervals, each from its begin to its end."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def area_under_curve(right: ArrayLike, scores: ArrayLike) -> float:
    """The chance that something right scores above something wrong, ties by half; NaN if either is missing.

    By mid-ranks (Mann-Whitney), so in the time of a sort.
    """
    labels = np.asarray(right, dtype=bool)
    _, place, counts = np.unique(np.asarray(scores, dtype=float), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]
    good, bad = int(labels.sum()), int((~labels).sum())
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad)) if good and bad else float("nan")


class Calibration(NamedTuple):
    """Of the confidence in answers that were given: expected calibration error, Brier score, area under the curve."""

    ece: float
    brier: float
    auc: float

    @classmethod
    def of(cls, sure: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> Calibration:
        """NaN where there is nothing to tell from. An answer with half of the credit or less counts as wrong in the curve."""
        measured = calibration_error(sure, right, weights), brier(sure, right, weights)
        return cls(*measured, area_under_curve(np.asarray(right, dtype=float) > 0.5, sure))

    def as_json(self) -> dict[str, float | None]:
        """None for NaN, which JSON does not have."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


BINS = 10


def calibration_error(sure: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Expected calibration error: 10 equal bins of confidence, the gap of mean confidence and accuracy by share of answers.

    A bin holds its upper edge. NaN for no answers.
    """
    confidence = np.asarray(sure, dtype=float)
    weight = np.ones(confidence.shape) if weights is None else np.asarray(weights, dtype=float)
    if not confidence.size:
        return float("nan")
    places = np.ceil(confidence * BINS - 1e-6).clip(1, BINS).astype(int) - 1
    gaps = np.bincount(places, weight * (confidence - np.asarray(right, dtype=float)), BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def brier(sure: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The mean square of confidence less credit; NaN for no answers."""
    gaps = np.asarray(sure, dtype=float) - np.asarray(right, dtype=float)
    weight = None if weights is None else np.asarray(weights, dtype=float)
    return float(np.average(gaps**2, weights=weight)) if gaps.size else float("nan")
