"""Many problems under one budget: what the easy ones leave is given to those that used all they had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from forethought.core.budget import BY_CLOCK_OR_CHAIN, amount
from forethought.core.cost import ZERO, Cost
from forethought.core.draft import Draft
from forethought.core.errors import BudgetEnded, UsageError
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Run, Scope, Seeded
from forethought.methods import Method
from forethought.selection import Verdict
from forethought.solving import Made, Parts, Solution, check, load, prepare

NOTHING = Verdict()


@dataclass(frozen=True, slots=True)
class Work:
    """A problem with what was done for it so far."""

    problem: Problem
    population: Population[Draft] = ()
    cost: Cost = ZERO
    short: bool = False  # the budget ended it
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

    In the second round the draws that the method did not need (its `n` less the drafts it made, summed over the problems)
    are divided among the problems that made all `n`; their drafts of both rounds are read together. A method without `n`
    has one round. Raises UsageError before anything is spent.
    """
    limits = {name: v for name, v in parts.budget.limits.items() if name not in BY_CLOCK_OR_CHAIN}
    if "tokens" in limits and limits.keys() & {"new_tokens", "verifier_tokens"}:
        raise UsageError("solve_many: limit tokens, or new_tokens and verifier_tokens, not both")
    await prepare(parts.by.model)
    for problem in problems:
        check(problem, parts)
    await load(parts.by)
    run = Run(Seeded(seed), failures=parts.failures, ordered="ordered" in parts.by.model.abilities)
    run.seconds = parts.budget.limits.get("seconds", math.inf)
    at = Scope.root(run, parts.budget)
    done = [Particle(Work(problem)) for problem in problems]
    done = await each(done, Prepaid(drafting(parts, parts.method), share(at, limits, max(len(done), 1))), at)
    more, needy = second_round(parts.method, [p.state for p in done])
    if more is not None:
        opened = [replace(p, done=i not in needy) for i, p in enumerate(done)]
        done = await each(opened, Prepaid(drafting(parts, more), share(at, limits, len(needy))), at)
    done = [replace(p, done=False) for p in done]
    done = await each(done, Prepaid(selecting(parts), share(at, limits, max(len(done), 1))), at)
    return [solution(parts, p.state, at, seed) for p in done]


def second_round(method: Method, works: Sequence[Work]) -> tuple[Method | None, list[int]]:
    """The method with the draws that each needy problem gets besides, and which problems those are."""
    n: int | None = getattr(method, "n", None)
    if n is None:
        return None, []
    needy = [i for i, work in enumerate(works) if len(work.population) >= n and not work.short]
    spare = sum(n - len(work.population) for work in works if len(work.population) < n and not work.short)
    if not needy or spare < len(needy):
        return None, []
    return replace(method, n=spare // len(needy)), needy  # type: ignore[type-var]


def drafting(parts: Parts, method: Method) -> Act:
    """Run the method on a problem and add its drafts; of a problem that the budget ended, those kept last."""

    async def act(work: Work, at: Scope) -> Work:
        (inner,) = at.fork(1)
        made, short = None, False
        try:
            with inner.timed():
                made = await method(work.problem, parts.by, inner)
        except BudgetEnded:
            pass
        finally:
            at.account.join([inner.account])
        if made is None:
            made, short = inner.kept or [], True
        return replace(work, population=[*work.population, *made], short=work.short or short)

    return act


def selecting(parts: Parts) -> Act:
    async def act(work: Work, at: Scope) -> Work:
        return replace(work, verdict=await parts.selection(work.population, work.problem, parts.by, at))

    return act


def solution(parts: Parts, work: Work, at: Scope, seed: int) -> Solution:
    made = Made(work.population, at, "budget" if work.short or at.run.short else "done")
    cost = work.cost._replace(seconds=at.run.clock.now())
    return replace(made.solution(parts, work.problem, work.verdict, seed), cost=cost)
