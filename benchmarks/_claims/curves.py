"""Accuracy over what was spent, and what two of them say of each other: paired intervals over problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DRAWS, SEED, POINTS = 2000, 0, 5
FURTHER = 0.02  # a difference of best accuracies that is worth a word


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """One ladder: `credit` and the entries of `cost` have a row a size and a column a problem, family after family."""

    name: str
    families: Mapping[str, int]  # how many problems of each, in the order of the columns
    credit: Floats
    cost: dict[str, Floats]
    drafts: Sequence[Sequence[dict[str, Any]]]  # of the largest size, a list a problem

    def axis(self, name: str) -> Floats:
        """`tokens` are new and verifier tokens; `flops` both, by the parameters that each passes through, twice."""
        if name == "tokens":
            return self.cost["new_tokens"] + self.cost["verifier_tokens"]
        if name == "flops":
            return 2e6 * self.cost["new_tokens"] + 3e6 * self.cost["verifier_tokens"]
        return self.cost[name]

    def only(self, families: Sequence[str]) -> Curve:
        """The same on some of its families."""
        keep = np.concatenate([self.columns(family) for family in families])
        cost = {name: values[:, keep] for name, values in self.cost.items()}
        counts = {family: self.families[family] for family in families}
        return Curve(self.name, counts, self.credit[:, keep], cost, [self.drafts[i] for i in keep])

    def columns(self, family: str) -> NDArray[np.int64]:
        """Where the problems of a family are."""
        labels = np.repeat(list(self.families), list(self.families.values()))
        return np.flatnonzero(labels == family)

    def weights(self) -> Floats:
        """How often each problem counts: once each in the first row, in the others as drawn anew within its family."""
        count = self.credit.shape[1]
        rng = np.random.default_rng(SEED)
        drawn = [rng.multinomial(each, np.full(each, 1 / each), size=DRAWS) for each in self.families.values()]
        return np.vstack([np.ones(count), np.hstack(drawn)]) / count

    def points(self, axis: str) -> tuple[Floats, Floats]:
        """For each drawing of problems and each size: the logarithm of the mean spent, and the accuracy."""
        law = self.weights()
        return np.log(law @ self.axis(axis).T), law @ self.credit.T


def together(a: Curve, b: Curve) -> tuple[Curve, Curve]:
    """Both on the families that both have."""
    families = [f for f in a.families if f in b.families]
    return a.only(families), b.only(families)


def estimate(draws: Floats) -> Estimate:
    """The first entry is of all problems, the others are of drawings of them."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return Estimate(float(draws[0]), float(low), float(high))


def interpolated(at: Floats, x: Floats, y: Floats) -> Floats:
    """Row by row: the heights at the points `at`."""
    return np.array([np.interp(at, *ordered(xs, ys)) for xs, ys in zip(x, y, strict=True)])


def ordered(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def common(a: Floats, b: Floats) -> Floats:
    """Points spread evenly over what both spans share; where they share nothing, none."""
    low, high = max(a.min(), b.min()), min(a.max(), b.max())
    return np.linspace(low, high, POINTS) if low < high else np.empty(0)


def gain(a: Curve, b: Curve, axis: str = "tokens") -> Estimate | None:
    """How much more accurate `a` is, on average over common points of the logarithm of what is spent."""
    a, b = together(a, b)
    (xa, ya), (xb, yb) = a.points(axis), b.points(axis)
    at = common(xa[0], xb[0])
    if not at.size:
        return None
    return estimate((interpolated(at, xa, ya) - interpolated(at, xb, yb)).mean(axis=1))


def relative_gain(a: Curve, b: Curve, axis: str = "tokens") -> Estimate | None:
    """The gain as a share of the accuracy of `b`."""
    a, b = together(a, b)
    (xa, ya), (xb, yb) = a.points(axis), b.points(axis)
    at = common(xa[0], xb[0])
    if not at.size:
        return None
    ours, theirs = interpolated(at, xa, ya).mean(axis=1), interpolated(at, xb, yb).mean(axis=1)
    return estimate(ours / np.maximum(theirs, 1e-9) - 1)


def saving(a: Curve, b: Curve, axis: str = "tokens") -> Estimate | None:
    """How many times as much `b` spends to reach the accuracies that both reach: a geometric mean over such accuracies.

    If one begins above all that the other reaches, its least is compared with the other's cheapest best: a bound.
    """
    a, b = together(a, b)
    (xa, ya), (xb, yb) = a.points(axis), b.points(axis)
    levels = np.linspace(*both_reach(ya[0], yb[0]), POINTS)
    return estimate(np.exp((reached(levels, xb, yb) - reached(levels, xa, ya)).mean(axis=1)))


def both_reach(a: Floats, b: Floats) -> tuple[float, float]:
    """The least and the greatest accuracy that both have."""
    high = min(a.max(), b.max())
    return min(high, max(a.min(), b.min())), high


def compared(a: Curve, b: Curve) -> str:
    """At which accuracies a saving is told, and how much further one of them goes."""
    a, b = together(a, b)
    tops = {curve.name: curve.credit.mean(axis=1).max() for curve in (a, b)}
    low, high = both_reach(a.credit.mean(axis=1), b.credit.mean(axis=1))
    further = max(tops, key=tops.__getitem__)
    at = f"at {low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"at {low:.0%} to {high:.0%}"
    return f"{at}; {further} goes on to {tops[further]:.0%}" if tops[further] - high > FURTHER else at


def reached(levels: Floats, x: Floats, y: Floats) -> Floats:
    """Row by row: the least x at which each level is reached, between the points by the line through them."""
    return np.array([[first(level, *ordered(xs, ys)) for level in levels] for xs, ys in zip(x, y, strict=True)])


def first(level: float, x: Floats, y: Floats) -> float:
    """What is never reached counts as reached at the end: a bound in favour of the curve."""
    above = np.flatnonzero(y >= level - 1e-12)
    if not above.size:
        return float(x[-1])
    i = int(above[0])
    if i == 0:
        return float(x[0])
    return float(x[i - 1] + (x[i] - x[i - 1]) * (level - y[i - 1]) / (y[i] - y[i - 1]))


def steeper(a: Curve, b: Curve, axis: str = "tokens") -> Estimate | None:
    """How much more `a` gains each time the tokens double, by least squares within the common span."""
    a, b = together(a, b)
    (xa, ya), (xb, yb) = a.points(axis), b.points(axis)
    at = common(xa[0], xb[0])
    if not at.size:
        return None
    centred = (at - at.mean()) / ((at - at.mean()) ** 2).sum() * np.log(2)
    return estimate((interpolated(at, xa, ya) - interpolated(at, xb, yb)) @ centred)
