"""Small things about likelihoods and draws that several methods need."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import Draft
from forethought.core.scope import Scope


def likelihood(draft: Draft) -> float:
    """The mean log-probability of the last tokens that were drawn: of the last step, or of what followed it. 0 if none."""
    last = next((d.logprobs for d in draft.lineage() if d.logprobs), ())
    return sum(last) / len(last) if last else 0.0


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities proportional to exp(score)."""
    weights = np.exp(scores - scores.max(initial=-np.inf))
    return np.asarray(weights / weights.sum())


def distinct(law: Sequence[float] | NDArray[np.float64], n: int, at: Scope) -> list[int]:
    """Up to `n` different indices, drawn one after another by `law` over those that are left; none of probability zero."""
    left = {i: p for i, p in enumerate(np.asarray(law).tolist()) if p > 0}
    picked: list[int] = []
    while left and len(picked) < n:
        picked.append(list(left)[at.draw(list(left.values()))])
        del left[picked[-1]]
    return picked
