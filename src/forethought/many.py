"""Many problems under one budget: what the easy ones leave is given to those that used all they had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from forethought.core.budget import BY_CLOCK_OR_CHAIN, amount
from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.core.trace import MemoryTrace
from forethought.methods import Method
from forethought.methods.protocol import Saving
from forethought.models.probing import settle
from forethought.parts import Parts
from forethought.selection import Verdict
from forethought.solving import Made, Solution, ready

NOTHING = Verdict()


@dataclass(frozen=True, slots=True)
class Work:
    """A problem with what was done for it so far."""

    problem: Problem
    method: Method
    population: Population[Draft] = ()
    cost: Cost = ZERO
    short: bool = False  # the budget ended it
    saved: int = 0  # draws that the method did not need
    verdict: Verdict = NOTHING


class Act(Protocol):
    async def __call__(self, work: Work, at: Scope) -> Work: ...


@dataclass(frozen=True, slots=True)
class Prepaid:
    """A kernel that works on a problem within a share of the budget, reserved in advance. So all can work at once."""

    act: Act
    share: Cost

    def bound(self, particle: Particle[Work]) -> Cost:
        return self.share

    async def __call__(self, particle: Particle[Work], at: Scope) -> Particle[Work]:
        work = await self.act(particle.state, at)
        cost = at.account.cost._replace(seconds=ZERO.seconds)
        return particle.moved(replace(work, cost=particle.state.cost + cost))


def share(at: Scope, limits: dict[str, float], count: int) -> Cost:
    """One of `count` equal shares of what is left, entry by entry."""
    left = {name: (limit - amount(at.account.spent, name)) / count for name, limit in limits.items()}
    whole = {name: math.floor(v) if isinstance(getattr(ZERO, name, 0), int) else v for name, v in left.items()}
    fields: dict[str, Any] = {"new_tokens" if name == "tokens" else name: value for name, value in whole.items()}
    return Cost(**fields)


async def solve_all(parts: Parts, problems: Sequence[Problem], seed: int) -> list[Solution]:
    """Solve each problem with an equal share of one budget; then give what is left to those that had too little.

    In the second round the draws that the method did not need, summed over the problems, are divided among the problems
    that needed all `n`, the odd ones from the first on; their drafts of both rounds are read together. What the budget ended
    has neither saved nor needs draws. A method that always begins all its drafts has one round. There is one solution a
    problem: what fails a problem as a whole fails the run, also where failed drafts are dropped. Raises UsageError before
    anything is spent, and ModelError.
    """
    limits = {name: v for name, v in parts.budget.limits.items() if name not in BY_CLOCK_OR_CHAIN}
    if "tokens" in limits and limits.keys() & {"new_tokens", "verifier_tokens"}:
        raise UsageError("solve_many: limit tokens, or new_tokens and verifier_tokens, not both")
    await ready([(problem, parts) for problem in problems])
    run = parts.run(seed, MemoryTrace())
    run.seconds = parts.budget.limits.get("seconds", math.inf)
    at = Scope.root(run, parts.budget)
    done = [Particle(Work(problem, parts.method)) for problem in problems]
    done = await each(done, Prepaid(drafting(parts), share(at, limits, max(len(done), 1))), at, failures="fail")
    again = second_round([p.state for p in done])
    if again:
        opened = [p.moved(again.get(i, p.state), done=i not in again) for i, p in enumerate(done)]
        done = await each(opened, Prepaid(drafting(parts), share(at, limits, len(again))), at, failures="fail")
    done = [replace(p, done=False) for p in done]
    done = await each(done, Prepaid(selecting(parts), share(at, limits, max(len(done), 1))), at, failures="fail")
    return [solution(parts, p.state, at, seed) for p in done]


def second_round(works: Sequence[Work]) -> dict[int, Work]:
    """The problems that get further draws, by their places: all that was saved is given on, and only that."""
    open_ = [(i, work) for i, work in enumerate(works) if not work.short and isinstance(work.method, Saving)]
    needy = [(i, work) for i, work in open_ if not work.saved]
    each_, odd = divmod(sum(work.saved for _, work in open_), max(len(needy), 1))
    draws = [each_ + (place < odd) for place in range(len(needy))]
    more = [replace(work.method, n=n or 1) for (_, work), n in zip(needy, draws, strict=True)]  # type: ignore[type-var]
    return {i: replace(work, method=m) for (i, work), m, n in zip(needy, more, draws, strict=True) if n}


def drafting(parts: Parts) -> Act:
    """Run its method on a problem and add its drafts; of a problem that the budget ended, those kept last."""

    async def act(work: Work, at: Scope) -> Work:
        made, short, saved = None, False, 0
        try:
            with at.inside() as inner, suppress(BudgetEnded), inner.timed():
                made = await work.method(work.problem, parts.by, inner)
        finally:
            settle(parts.by.model, at)
        if made is None:
            made, short = inner.kept or [], True
        elif isinstance(work.method, Saving):
            saved = max(work.method.saved(made) - dropped(inner), 0)
        return replace(work, population=[*work.population, *made], short=work.short or short, saved=saved)

    return act


def dropped(at: Scope) -> int:
    """How many drafts failed below this place. They were begun, though nothing came of them."""
    trace, depth = at.run.trace, len(at.path)
    assert isinstance(trace, MemoryTrace)
    return sum(event.kind == "dropped" and event.place[:depth] == at.path for event in trace.events)


def selecting(parts: Parts) -> Act:
    async def act(work: Work, at: Scope) -> Work:
        return replace(work, verdict=await parts.selection(work.population, work.problem, parts.by, at))

    return act


def solution(parts: Parts, work: Work, at: Scope, seed: int) -> Solution:
    made = Made(work.population, at, "budget" if work.short or at.run.short else "done")
    cost = work.cost._replace(seconds=at.run.clock.now())
    return replace(made.solution(parts, work.problem, work.verdict, seed), cost=cost)
