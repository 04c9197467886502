"""Claims about plain samples, read from recorded drafts."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .curves import SEED, Curve, Estimate, Floats, estimate, ordered

FALSE_POSITIVE, FALSE_NEGATIVE, ERROR_COSTS = 0.2, 0.1, 4.0
JUDGE, VERIFICATIONS = 0.75, (1, 3)


def share_of_gain(adaptive: Curve, best: Curve, calls: float) -> Estimate | None:
    """The share of best-of-16's gain over one sample that is left at a mean number of `calls`.

    None where there is no gain, or no setting that calls so seldom.
    """
    x, y = adaptive.points("calls")
    reached = np.array([np.interp(np.log(calls), *ordered(xs, ys)) for xs, ys in zip(x, y, strict=True)])
    _, of = best.points("calls")
    one, sixteen = of[:, 0], of[:, 4]
    if sixteen[0] - one[0] < 0.01 or not x[0].min() <= np.log(calls) <= x[0].max():
        return None
    return estimate((reached - one) / np.where(abs(sixteen - one) < 1e-6, 1e-6, sixteen - one))


def no_fall(a: Curve, b: Curve) -> Estimate | None:
    """The change of the accuracy of `a` from where `b` peaks to the last size; None where `b` does not fall from there."""
    return since_peak(a, b) if since_peak(b, b).high < 0 else None


def since_peak(curve: Curve, other: Curve) -> Estimate:
    """The change of accuracy from the size at which `other` is best to the last.

    The best size is found on one half of the problems and judged on the other, both ways.
    """
    law, odd = curve.weights(), np.arange(curve.credit.shape[1]) % 2 == 1
    change = np.zeros(len(law))
    for chosen, judged in ((odd, ~odd), (~odd, odd)):
        peak = other.credit[:, chosen].mean(axis=1).argmax()
        change += law[:, judged] @ (curve.credit[-1] - curve.credit[peak])[judged]
    return estimate(change)


def ahead(a: Curve, b: Curve) -> Estimate:
    """How much more accurate `a` is at the largest size of both."""
    return estimate(a.weights() @ (a.credit[-1] - b.credit[-1]))


@functools.cache
def first_to_finish(curve: Curve) -> Curve:
    """The shortest readable of the first 4, 8, 16, ... drafts (equal lengths share), all billed up to where it ends."""
    sizes = [n for n in (4, 8, 16, 32) if n <= len(curve.drafts[0])]
    found = [[finished_first(drafts[:n]) for drafts in curve.drafts] for n in sizes]
    credit = np.array([[right for right, _ in row] for row in found])
    tokens = np.array([[float(spent) for _, spent in row] for row in found])
    cost = {axis: np.zeros_like(tokens) for axis in curve.cost} | {"new_tokens": tokens}
    return Curve(f"first of {curve.name}", curve.families, credit, cost, curve.drafts)


def finished_first(drafts: list[dict[str, object]]) -> tuple[float, int]:
    """The credit of the shortest readable drafts, and what all had written when they ended."""
    sizes = [int(str(d["size"])) for d in drafts]
    read = [(int(str(d["size"])), bool(d["right"])) for d in drafts if d["answer"] is not None]
    if not read:
        return 0.0, sum(sizes)
    least = min(size for size, _ in read)
    return float(np.mean([right for size, right in read if size == least])), sum(min(size, least) for size in sizes)


def shortest(curve: Curve, n: int) -> Estimate:
    """The accuracy of the shortest of `n` finished drafts, less that of all of them; equal lengths share."""
    return estimate(curve.weights() @ np.array([short_less_mean(drafts[:n]) for drafts in curve.drafts]))


def short_less_mean(drafts: list[dict[str, object]]) -> float:
    read = [(int(str(d["size"])), bool(d["right"])) for d in drafts if d["answer"] is not None]
    if not read:
        return 0.0
    least = min(size for size, _ in read)
    return float(np.mean([r for size, r in read if size == least]) - np.mean([r for _, r in read]))


def power_law(curve: Curve) -> Estimate:
    """How well log(-log coverage) is a line in log k, by R^2; coverage is unbiased from all drafts."""
    law, n = curve.weights(), len(curve.drafts[0])
    k = np.arange(1, n // 2 + 1)
    right = np.array([sum(bool(d["right"]) for d in drafts) for drafts in curve.drafts])
    missed = np.array([np.cumprod(np.maximum(1 - c / (n - k + 1.0), 0)) for c in right])  # none of k is right
    coverage = np.clip(law @ (1 - missed), 1e-6, 1 - 1e-6)
    y, x = np.log(-np.log(coverage)), np.log(k)
    return estimate(np.array([np.corrcoef(x, row)[0, 1] ** 2 for row in y]))


def solve_or_verify(curve: Curve, units: int) -> Estimate:
    """What votes over `units` drafts are ahead of drafts with verifications, whose mean verdict picks, for the same units.

    A judge's word on a draft is right with chance JUDGE. The better of 1 and 3 verifications a draft is its score, in
    each drawing of problems.
    """
    rng = np.random.default_rng(SEED)
    law = curve.weights()
    votes = np.array([vote(drafts[:units]) for drafts in curve.drafts])
    judged = [
        np.array([picked(drafts[: max(units // (1 + v), 1)], v, rng) for drafts in curve.drafts]) for v in VERIFICATIONS
    ]
    return estimate(law @ votes - np.max([law @ credit for credit in judged], axis=0))


def vote(drafts: list[dict[str, object]]) -> float:
    return leading(drafts, [1.0] * len(drafts))


def picked(drafts: list[dict[str, object]], verifications: int, rng: np.random.Generator) -> float:
    """The credit of the drafts with the best mean verdict; ties share."""
    chance = [JUDGE if d["right"] else 1 - JUDGE for d in drafts]
    verdicts = rng.binomial(verifications, chance)
    top = [bool(d["right"]) for d, v in zip(drafts, verdicts, strict=True) if v == verdicts.max()]
    return float(np.mean(top))


def leading(drafts: list[dict[str, object]], weights: list[float]) -> float:
    classes: dict[str, tuple[float, bool]] = {}
    for draft, weight in zip(drafts, weights, strict=True):
        if draft["answer"] is not None:
            before, _ = classes.get(str(draft["answer"]), (0.0, False))
            classes[str(draft["answer"])] = (before + weight, bool(draft["right"]))
    if not classes:
        return 0.0
    top = max(weight for weight, _ in classes.values())
    return float(np.mean([right for weight, right in classes.values() if weight == top]))


def finite_best(curve: Curve) -> Estimate:
    """The utility at the best N, less that at the largest N, for taking the first accepted of N drafts, else abstaining.

    The best N is found on one half of the problems and judged on the other, both ways.
    """
    law = curve.weights()
    utility = np.array([utilities([bool(d["right"]) for d in drafts]) for drafts in curve.drafts])
    odd = np.arange(len(utility)) % 2 == 1
    gained = np.zeros(len(law))
    for chosen, judged in ((odd, ~odd), (~odd, odd)):
        best = (law[:, chosen] @ utility[chosen]).argmax(axis=1)
        by_n = law[:, judged] @ utility[judged]
        gained += by_n[np.arange(len(law)), best] - by_n[:, -1]
    return estimate(gained)


def utilities(right: list[bool]) -> Floats:
    """For each N: the chance of a right answer less ERROR_COSTS times that of a wrong one."""
    truth: NDArray[np.bool_] = np.array(right)
    accepted = np.where(truth, 1 - FALSE_NEGATIVE, FALSE_POSITIVE)
    reached = np.concatenate([[1.0], np.cumprod(1 - accepted)[:-1]])
    value = np.where(truth, 1.0, -ERROR_COSTS)
    return np.cumsum(reached * accepted * value)


def negative(found: Estimate) -> Estimate:
    return Estimate(-found.value, -found.high, -found.low)
