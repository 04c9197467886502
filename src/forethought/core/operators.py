"""The operators of which methods are made. `each` and `branch` keep the measure; `prune`, `race` and `merge` are greedy.

Methods start tasks by `each` and `race` alone (see `fanout`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence

from forethought.core.errors import BudgetEnded
from forethought.core.fanout import FanOut, Kernel
from forethought.core.population import Particle, Population, S, log_evidence
from forethought.core.scope import Failures, Scope


async def each(
    pop: Population[S], move: Kernel[S], at: Scope, *, failures: Failures | None = None
) -> list[Particle[S]]:
    """Move every particle that has not ended, concurrently. What arrives at an engine together is batched together.

    Particles are admitted in index order in waves, as many as fit into the budget at their full bound; what a wave leaves
    comes back when it ends. If the next one does not fit even alone, those admitted finish, the population is kept
    (`at.keep`) and BudgetEnded is raised. A particle whose kernel raises ModelError ends the fan-out, or is dropped from
    the population and recorded, by `failures` (default: the run's policy). Keeps the measure in expectation if `move` does.
    """
    fan = FanOut(pop, move, at, failures)
    await fan.move_all()
    if fan.refused:
        at.keep(fan.result())
        raise fan.refusal()
    return fan.result()


async def race(
    pop: Population[S],
    move: Kernel[S],
    at: Scope,
    *,
    first: int,
    counts: Callable[[Particle[S]], bool] = lambda particle: True,
    failures: Failures | None = None,
) -> list[Particle[S]]:
    """Move the particles that have not ended; return the `first` of them to finish so that they count, in that order.

    Greedy. Where fewer count (after failures that are dropped, too), fewer are returned.

    On models whose runs must be reproducible (`Run.ordered`) who is first is decided by critical tokens, then index, and
    nothing is cancelled: what a race there saves is waiting, not tokens. Elsewhere it is decided by arrival, recorded, and
    the rest are cancelled. The late ones are billed for what they used.
    """
    fan = FanOut(pop, move, at, failures, None if at.run.ordered else first, counts)
    await fan.move_all()
    at.run.short |= bool(fan.refused)  # a larger budget might have had another winner
    winners = fan.by_chain()[:first] if at.run.ordered else fan.arrived[:first]
    if len(winners) < first and fan.refused:
        at.keep(fan.result())
        raise fan.refusal()
    return [fan.out[i] for i in winners]


def branch(pop: Population[S], copies: Sequence[int]) -> list[Particle[S]]:
    """Split particle i into copies[i] that share its weight. A zero drops its mass, which makes it greedy."""
    return [Particle(p.state, p.logw - math.log(k), p.done) for p, k in zip(pop, copies, strict=True) for _ in range(k)]


def prune(pop: Population[S], keep: int, key: Callable[[Particle[S]], float]) -> list[Particle[S]]:
    """The `keep` best by `key`, best first, ties to the lower index. Greedy."""
    return sorted(pop, key=key, reverse=True)[:keep]


async def merge(pop: Population[S], fuse: Callable[[Population[S], Scope], Awaitable[S]], at: Scope) -> Particle[S]:
    """Make one new state out of many (a summary, a fused draft); it carries their whole mass. Greedy."""
    if not pop:
        raise ValueError("there is nothing to merge")
    mass = log_evidence(pop)
    with at.inside() as place:
        try:
            return Particle(await fuse(pop, place), mass)
        except BudgetEnded:
            at.keep(pop)
            raise
