"""Searches that spread a width over steps by their grades: how many continuations each step gets, and the rounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from forethought.core.draft import ROOT, Draft
from forethought.core.fanout import Kernel
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.keeping import keeping
from forethought.methods.steps import answers_first, by_grade, grade_different

ROUNDING = 1e-9  # what a quotient may exceed a whole number by and still be that number

Share = Callable[[Population[Draft], int], Sequence[int]]
"""How many continuations each of these steps gets, for a width."""


def allocation(rewards: Sequence[float], width: int, temper: float) -> list[int]:
    """Shares of `width` by softmax(reward / temper), best first, each rounded up out of what is left (REBASE, eq. 3).

    They are whole, sum to `width`, and a higher reward never gets less; ties go to the earlier. A reward of -inf gets nothing
    unless all are. At `temper` 0 the best get all.
    """
    counts = [0] * len(rewards)
    order = sorted(range(len(rewards)), key=lambda i: -rewards[i])
    weights = softmaxed([rewards[i] for i in order], temper)
    rest = np.cumsum(weights[::-1])[::-1]
    for i, weight, tail in zip(order, weights, rest, strict=True):
        if width <= 0 or weight <= 0:
            break
        counts[i] = min(width, math.ceil(width * weight / tail - ROUNDING))
        width -= counts[i]
    return counts


def softmaxed(rewards: Sequence[float], temper: float) -> np.ndarray:
    """exp((reward - highest) / temper) of rewards, the highest of which comes first."""
    gaps = np.array(rewards) - rewards[0] if rewards[0] > -math.inf else np.zeros(len(rewards))
    return np.exp(gaps / temper) if temper > 0 else (gaps == 0).astype(float)


def shared_out(by: By, temper: float) -> Share:
    """REBASE's shares: by the grades of the steps."""
    rank = by_grade(by)
    return lambda pop, width: allocation([rank(p) for p in pop], width, temper)


async def balanced(
    n: int, share: Share, step: Kernel[Draft], problem: Problem, by: By, at: Scope
) -> list[Particle[Draft]]:
    """`n` drafts, or fewer where calls fail: each round spreads what is left of the width over the unfinished ones.

    A draft that has ended takes its place out of the width.
    """
    pop, made = [Particle(ROOT)], list[Particle[Draft]]()
    while pop:
        counts = share(pop, n - len(made))
        with keeping(made, at):
            drawn = await each([p for p, k in zip(pop, counts, strict=True) for _ in range(k)], step, at)
            drawn = await grade_different(drawn, by, problem, at)
        made += [p for p in drawn if p.ended]
        pop = [p for p in drawn if not p.ended]
        at.keep([*made, *pop])
    return answers_first(made)
