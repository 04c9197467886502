"""What particle methods share: weights from grades, and the move that makes a step and weighs it."""

from __future__ import annotations

import math
from collections.abc import Callable

from forethought.core.blocks import Move
from forethought.core.draft import Draft
from forethought.core.fanout import Kernel
from forethought.core.operators import each
from forethought.core.population import Particle, Population, posterior
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.resample import Scheme, resample
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.steps import grade_different

CLIP = 1e-7  # as the code of Puri et al. clips grades before taking their odds


def log_odds(draft: Draft, by: By) -> float:
    """log(g / (1 - g)) of the draft's grade; 0 where it is unknown, which makes it a factor of 1.

    Raises UsageError for a grade that is no probability: it has no odds.
    """
    grade = by.value(draft)
    if grade is None:
        return 0.0
    require(
        -CLIP <= grade <= 1 + CLIP, f"the verifier gave {grade:g}; a method that weighs by odds needs probabilities"
    )
    clipped = min(max(grade, CLIP), 1 - CLIP)
    return math.log(clipped) - math.log1p(-clipped)


def change(draft: Draft, by: By) -> float:
    """What the last step did to the log-odds."""
    return log_odds(draft, by) - (log_odds(draft.parent, by) if draft.parent else 0.0)


def weighed(
    problem: Problem,
    by: By,
    step: Kernel[Draft],
    gain: Callable[[Draft], float],
    beside: Callable[[], Population[Draft]] = tuple,
) -> Move[Draft]:
    """A move: each living draft makes a step, is graded, and gains `gain` of it on its log-weight.

    Equal steps of one draft are one draft, graded once, those among the graded particles `beside` them too. That keeps every
    weight's mean, also where a verifier's grades are random.
    """

    async def move(pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
        # Who moved has a parent that lived: all that live stand one step further than the parents of those that have ended.
        living, others = {id(p.state) for p in pop if not p.ended}, beside()
        graded = await grade_different([*others, *await each(pop, step, at)], by, problem, at)
        return [
            p.moved(p.state, gain=gain(p.state), done=p.done) if id(p.state.parent) in living else p
            for p in graded[len(others) :]
        ]

    return move


def prefixes(problem: Problem, by: By, step: Kernel[Draft]) -> Move[Draft]:
    """A move: each living draft makes a step; then every weight is the odds of its whole text, whatever it was before."""

    async def move(pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
        pop = await grade_different(await each(pop, step, at), by, problem, at)
        return [Particle(p.state, log_odds(p.state, by), p.done) for p in pop]

    return move


def forgetful(n: int, scheme: Scheme, temper: Callable[[Population[Draft]], float]) -> Move[Draft]:
    """A move: resample at `temper` and forget the weights. Greedy."""

    async def move(pop: Population[Draft], at: Scope) -> list[Particle[Draft]]:
        survivors = resample(pop, n, posterior(pop, temper(pop)), at, scheme)
        return [Particle(p.state, 0.0, p.done) for p in survivors]

    return move


async def foreseen(pop: Population[Draft], move: Move[Draft], at: Scope) -> list[float]:
    """What one more step would gain each particle, tried on a draft that is thrown away; equal drafts share one trial."""
    tried = {id(p.state): Particle(p.state) for p in pop if not p.ended}
    with at.aside() as inside:
        ahead = await move(list(tried.values()), inside)
    gains = {id(p.state.parent): p.logw for p in ahead}
    return [gains.get(id(p.state), 0.0) for p in pop]


def annealed(t: int, start: float, end: float | None, steps: int) -> float:
    """The temperature of round `t`, counted from 0: from `start` to `end` in equal parts over `steps` rounds, then `end`."""
    return start if end is None else start + (end - start) * min(t / steps, 1.0)


def check_tempers(name: str, start: float, end: float | None, steps: int) -> None:
    require(start > 0, f"{name}: temper must be positive, not {start}")
    require(end is None or end > 0, f"{name}: temper_end must be positive, not {end}")
    require(steps >= 1, f"{name}: temper_steps must be at least 1, not {steps}")
