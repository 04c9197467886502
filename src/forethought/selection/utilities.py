"""How alike two texts are, for minimum Bayes risk: functions from texts to a matrix of numbers in [0, 1]."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Utility = Callable[[Sequence[str]], NDArray[np.float64]]
"""From n different texts to an (n, n) matrix: how much text j speaks for text i. One with itself is 1."""


def exact(texts: Sequence[str]) -> NDArray[np.float64]:
    """1 for a text with itself, 0 with any other."""
    return np.eye(len(texts))


def words(texts: Sequence[str]) -> NDArray[np.float64]:
    """F1 of the words that two texts share, each as often as both have it; case does not matter."""
    return overlap([re.findall(r"\w+|[^\w\s]", text.casefold()) for text in texts])


def letters(texts: Sequence[str]) -> NDArray[np.float64]:
    """F1 of the groups of three letters that two texts share, in the manner of chrF: no words needed."""
    folded = ["  " + " ".join(text.casefold().split()) for text in texts]
    return overlap([[text[i : i + 3] for i in range(max(len(text) - 2, 1))] for text in folded])


def overlap(bags: Sequence[Iterable[str]]) -> NDArray[np.float64]:
    """F1 of bags: twice what two share over what both have together; 1 for two empty ones."""
    features = [[(item, k) for item, count in Counter(bag).items() for k in range(count)] for bag in bags]
    sizes = np.array([len(own) for own in features], dtype=float)
    owners: dict[tuple[str, int], list[int]] = {}
    for i, own in enumerate(features):
        for feature in own:
            owners.setdefault(feature, []).append(i)
    shared = np.zeros((len(bags), len(bags)))
    for holders in owners.values():
        shared[np.ix_(holders, holders)] += 1
    both = sizes[:, None] + sizes
    return np.asarray(np.divide(2 * shared, both, out=np.eye(len(bags)), where=both > 0))


UTILITIES: dict[str, Utility] = {"exact": exact, "words": words, "letters": letters}
"""By name; enter one of your own and ask for it as `mbr(utility=NAME)`."""
