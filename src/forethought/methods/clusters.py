"""Clusters of texts: words by TF-IDF, groups by k-means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def tf_idf(texts: Sequence[str]) -> NDArray[np.float64]:
    """One row a text: counts of its words, times ln((1 + texts) / (1 + texts with the word)) + 1, scaled to length 1."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    columns = {word: i for i, word in enumerate(sorted(set().union(*counts)))}
    table = np.zeros((len(texts), len(columns)))
    for row, count in zip(table, counts, strict=True):
        for word, times in count.items():
            row[columns[word]] = times
    table *= np.log((1 + len(texts)) / (1 + (table > 0).sum(0))) + 1
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    return np.asarray(table / np.where(lengths > 0, lengths, 1.0))


def k_means(points: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """A cluster number for each point. Starts from the first point and those farthest from all chosen before (no chance).

    There are fewer than `k` clusters where fewer than `k` points differ.
    """
    centres = points[:1]
    while len(centres) < k and (gaps := distances(points, centres).min(1)).max() > 1e-12:
        centres = np.vstack([centres, points[gaps.argmax()]])
    labels: NDArray[np.intp] = distances(points, centres).argmin(1)
    for _ in range(100):
        centres = np.array([points[labels == i].mean(0) if (labels == i).any() else c for i, c in enumerate(centres)])
        before, labels = labels, distances(points, centres).argmin(1)
        if (labels == before).all():
            break
    return labels


def distances(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared, one row a point, one column a centre."""
    return np.asarray(((points[:, None] - centres) ** 2).sum(2))
