"""Steps with a glance ahead: what was written after each, what it is worth, and who agrees with whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import ROOT, Draft
from forethought.core.population import Population
from forethought.methods.chances import likelihood
from forethought.methods.clusters import k_means, tf_idf

Pair = tuple[Draft, Draft]
"""A step, and the draft that was written to its end from it; one that has ended stands for itself."""


def paired(steps: Population[Draft], ends: Population[Draft]) -> list[Pair]:
    """Also where some ends are missing because their calls failed."""
    known = {p.state for p in steps if p.ended}
    return [(p.state if p.state in known else p.state.parent or ROOT, p.state) for p in ends]


def gains(pairs: Sequence[Pair], value: dict[Draft, float]) -> NDArray[np.float64]:
    """The advantage of each pair: its value less that of the draft it comes from."""
    return np.array([likelihood(end) - value[step if step in value else step.parent or ROOT] for step, end in pairs])


def clustered(pairs: Sequence[Pair], k: int) -> NDArray[np.intp]:
    """Cluster numbers by the texts of the steps and what was written after them."""
    return k_means(tf_idf([step.new + (end.new if end is not step else "") for step, end in pairs]), k)


def agreement(pairs: Sequence[Pair], k: int) -> NDArray[np.float64]:
    """The share of each pair's cluster."""
    labels = clustered(pairs, k)
    return np.asarray(np.bincount(labels)[labels] / len(labels))
