"""What a selection is worth on n of M recorded samples in random order: closed forms, where there are any."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from forethought.selection import Selection
from forethought.selection.basic import Best, First, Majority

Numbers = NDArray[np.float64]
CELLS = 2000  # of tables of counts that are gone through


def pass_at(samples: int, right: int, n: int) -> float:
    """The chance that one of `n` samples is right, without bias: 1 - C(samples - right, n) / C(samples, n)."""
    return 1 - without(samples, right, n)


def without(samples: int, some: int, n: int) -> float:
    """The chance that none of `some` is among `n` of `samples`."""
    return math.comb(samples - some, n) / math.comb(samples, n)


def expected(
    selection: Selection, answer: NDArray[np.intp], right: NDArray[np.bool_], grade: Numbers, n: int
) -> float | None:
    """The expected credit on `n` samples of one problem; None where only an average over choices can tell.

    `answer` is the class of each sample (-1: unreadable), `right` tells of each class.
    """
    if isinstance(selection, First):
        return first(answer, right, n)
    if isinstance(selection, Best):
        return best(answer, right, grade, n)
    return majority(answer, right, n) if isinstance(selection, Majority) else None


def first(answer: NDArray[np.intp], right: NDArray[np.bool_], n: int) -> float:
    """The first that can be read is any of those, all alike."""
    readable = answer[answer >= 0]
    if not len(readable):
        return 0.0
    return float(right[readable].mean()) * (1 - without(len(answer), len(readable), n))


def best(answer: NDArray[np.intp], right: NDArray[np.bool_], grade: Numbers, n: int) -> float | None:
    """By order statistics. None where answers right and wrong share a grade."""
    known = np.where(np.isnan(grade), -np.inf, grade)[answer >= 0]
    correct = right[answer[answer >= 0]]
    _, place, sizes = np.unique(known, return_inverse=True, return_counts=True)
    good = np.bincount(place, correct, len(sizes))
    if ((good > 0) & (good < sizes)).any():
        return None
    upto = len(answer) - len(known) + sizes.cumsum()  # who cannot be read is below all
    inside = all_inside(len(answer), n)
    return float((inside[upto] - inside[upto - sizes]) @ (good > 0))


@lru_cache(maxsize=64)
def all_inside(samples: int, n: int) -> Numbers:
    """The chance that n of so many samples are all among the first k, for k = 0, 1, ..."""
    return np.array([math.comb(k, n) / math.comb(samples, n) for k in range(samples + 1)])


def majority(answer: NDArray[np.intp], right: NDArray[np.bool_], n: int) -> float | None:
    """By going through all tables of counts. None where there are too many."""
    sizes = np.bincount(answer + 1, minlength=1 + int(answer.max(initial=0)) + 1)  # the unreadable first
    if np.prod(np.minimum(sizes, n) + 1.0) > CELLS:
        return None
    ways = [[math.comb(int(size), k) for k in range(min(int(size), n) + 1)] for size in sizes]
    tables = np.indices([len(w) for w in ways]).reshape(len(ways), -1).T
    tables = tables[tables.sum(1) == n]
    law = np.array([math.prod(w[k] for w, k in zip(ways, row, strict=True)) for row in tables.tolist()], dtype=object)
    chance = np.array([way / math.comb(len(answer), n) for way in law])
    votes = tables[:, 1:]
    lead = (votes == votes.max(1, keepdims=True)) & (votes > 0)
    share = (lead & right[: votes.shape[1]]).sum(1) / np.maximum(lead.sum(1), 1)
    return float(chance @ share)
