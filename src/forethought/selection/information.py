"""How much a prompt's content speaks for an answer, and how much would be needed: B2T and ISR."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

MOST = 12.0  # nats that one weakened prompt can count for


class Information(NamedTuple):
    """`delta`: nats that the content gives. `needed`: nats for the wanted reliability. `ratio`: ISR."""

    delta: float
    needed: float
    ratio: float


def divergence(p: float, q: float) -> float:
    """KL(Bernoulli(p) || Bernoulli(q)) in nats."""
    terms = ((p, q), (1 - p, 1 - q))
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in terms if a > 0)


def information(sure: float, weakened: Sequence[float], n: int, wanted: float) -> Information:
    """From the chance of an answer under the prompt and under weakened ones, each estimated from `n` samples.

    `wanted` is the error rate that is allowed. The chances must be above 0.
    """
    delta = sum(min(max(math.log(sure) - math.log(q), 0.0), MOST) for q in weakened) / len(weakened)
    needed = divergence(1 - wanted, max(min(weakened), 1 / (n + 2)))
    ratio = delta / needed if needed > 0 else (math.inf if delta > 0 else 1.0)
    return Information(delta, needed, ratio)
