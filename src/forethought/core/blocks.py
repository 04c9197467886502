"""Building blocks for inference on any program, after Scibior et al. 2018 (arXiv:1711.03219).

A *program* is a generator function. It yields the probabilities of a choice and is sent the index drawn; it yields a number,
and its weight is multiplied by exp(number); what it returns is its value. It denotes the measure over its values in which
each run counts its probability times its weight.

A *move* takes a population to a population. Every move here is valid: it keeps the measure that the program goes on to, in
expectation, from each population. So they compose in any order, and `sequentially` until all have ended; moves made of
kernels of language models (`each(pop, kernel, at)`) compose in the same way.

It rains on one day in five; an umbrella is seen on nine rainy days of ten, and on one of ten dry ones. One is seen:

>>> import math, anyio
>>> from forethought.core.blocks import smc
>>> from forethought.core.scope import Scope
>>> def weather():
...     rain = yield [0.8, 0.2]
...     yield math.log([0.1, 0.9][rain])
...     return rain
>>> runs = anyio.run(smc, weather, 1000, Scope.root())
>>> round(sum(run.state.value for run in runs) / len(runs), 1)  # 0.18 / 0.26
0.7
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Generic, TypeAlias, TypeVar

from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population, S, ended, ess, log_evidence, posterior
from forethought.core.registry import require
from forethought.core.resample import Scheme, resample
from forethought.core.scope import Scope

V = TypeVar("V")
Law: TypeAlias = Sequence[float]
Program: TypeAlias = Callable[[], Generator[Law | float, int, V]]
Move: TypeAlias = Callable[[Population[S], Scope], Awaitable[list[Particle[S]]]]


# Sequential: a program that is suspended at its scores


@dataclass(frozen=True, slots=True)
class Execution(Generic[V]):
    """A run of a program up to one of its scores or its end: its choices, their laws, its scores, its value once it has one.

    A fork is a shared reference: going on means running the program again along its recorded choices.
    """

    program: Program[V]
    choices: tuple[int, ...] = ()
    laws: tuple[Law, ...] = ()
    scores: tuple[float, ...] = ()
    value: V | None = None
    ended: bool = False

    @property
    def score(self) -> float:
        """The log-weight of this run."""
        return math.fsum(self.scores)

    @property
    def log_prior(self) -> float:
        """The log-probability of these choices: the density of what was drawn, for what is given to be scored."""
        return math.fsum(math.log(law[i] / math.fsum(law)) for i, law in zip(self.choices, self.laws, strict=True))


def execute(program: Program[V], choose: Callable[[int, Law], int], until: float = math.inf) -> Execution[V]:
    """Run a program to its score number `until`, or its end. `choose` takes the position and the law of a choice."""
    choices: list[int] = []
    laws: list[Law] = []
    scores: list[float] = []
    run = program()
    try:
        said = next(run)
        while True:
            if isinstance(said, int | float | Real):  # Real: also of numpy
                scores.append(float(said))
                if len(scores) >= until or said == -math.inf:
                    return Execution(program, tuple(choices), tuple(laws), tuple(scores))
                said = next(run)
            else:
                choices.append(choose(len(choices), said))
                laws.append(tuple(said))
                said = run.send(choices[-1])
    except StopIteration as end:
        return Execution(program, tuple(choices), tuple(laws), tuple(scores), end.value, ended=True)


def given(program: Program[V], choices: Sequence[int]) -> Execution[V]:
    """The run of a program along given choices, with its two densities: the other way of `sampled`."""
    return execute(program, lambda position, law: choices[position])


async def advance(particle: Particle[Execution[V]], at: Scope) -> Particle[Execution[V]]:
    """A kernel: go on to the next score, which weighs the particle, or to the end."""
    old = particle.state

    def choose(position: int, law: Law) -> int:
        return old.choices[position] if position < len(old.choices) else at.draw(law)

    new = execute(old.program, choose, until=len(old.scores) + 1)
    return particle.moved(new, gain=math.fsum(new.scores[len(old.scores) :]), done=new.ended)


async def advanced(pop: Population[Execution[V]], at: Scope) -> list[Particle[Execution[V]]]:
    return await each(pop, advance, at)


# Weighted: one run to its end


async def sampled(program: Program[V], at: Scope) -> Particle[Execution[V]]:
    """One run from its prior, weighted by its scores (likelihood weighting)."""
    run = execute(program, lambda position, law: at.draw(law))
    return Particle(run, run.score, run.ended)


# Population: many runs that share the mass


def spawn(state: S, n: int) -> list[Particle[S]]:
    """`n` copies of one state, of weight 1/n each. Raises UsageError if that is nobody."""
    require(n >= 1, f"a population needs at least 1 particle, not {n}")
    return branch([Particle(state)], [n])


def resampled(n: int, scheme: Scheme = "systematic", share: float = 1.0) -> Move[S]:
    """Resample to `n` by weight where the effective sample size is below `share` of `n`; never where all weights agree."""

    async def move(pop: Population[S], at: Scope) -> list[Particle[S]]:
        return resample(pop, n, posterior(pop), at, scheme) if degenerate(pop, share * n) else list(pop)

    return move


def degenerate(pop: Population[S], least: float) -> bool:
    """Whether the effective sample size is below `least`, and not just by rounding; a dead population cannot be mended."""
    return 0 < ess(pop) < least * (1 - 1e-12)


def proper(pop: Population[S], at: Scope) -> Particle[S]:
    """One particle drawn by weight, which carries the whole mass: a population as one weighted sample."""
    probs = posterior(pop)
    if not probs.any():
        return Particle(pop[0].state, -math.inf)
    chosen = pop[at.draw(probs.tolist())]
    return Particle(chosen.state, log_evidence(pop), chosen.done)


# Traced: Markov moves on whole runs


def accepted(now: Particle[S], new: Particle[S], ratio: float, at: Scope) -> Particle[S]:
    """`new` with probability min(1, exp(ratio)), else `now`: the rule of Metropolis and Hastings."""
    chance = math.exp(min(ratio, 0.0))
    return new if at.draw([chance, 1 - chance]) == 0 else now


def single_site(particle: Particle[Execution[V]], until: float, at: Scope) -> Particle[Execution[V]]:
    """Draw one choice anew and run on; later choices are kept where their law is the same (Wingate et al. 2011).

    Leaves the program, truncated at its score number `until`, invariant. The weight stays as it is.
    """
    old = particle.state
    if not old.choices or particle.logw == -math.inf:
        return particle
    site = at.draw([1.0] * len(old.choices))

    def choose(position: int, law: Law) -> int:
        keeps = position != site and position < len(old.choices) and tuple(law) == old.laws[position]
        return old.choices[position] if keeps else at.draw(law)

    new = execute(old.program, choose, until)
    if new.score == -math.inf:
        return particle
    ratio = new.score - old.score + math.log(len(old.choices) / len(new.choices))
    return accepted(particle, Particle(new, particle.logw, new.ended), ratio, at)


# Compositions


async def sequentially(pop: Population[S], at: Scope, *moves: Move[S]) -> list[Particle[S]]:
    """Make the moves in turn, round by round, until every particle has ended; keep the population after each round."""
    pop = list(pop)
    while not ended(pop):
        for move in moves:
            pop = await move(pop, at)
        at.keep(pop)
    return pop


async def smc(
    program: Program[V], n: int, at: Scope, redraw: Move[Execution[V]] | None = None
) -> list[Particle[Execution[V]]]:
    """Sequential Monte Carlo: advance to the next score, resample (default: systematically at every score). Proper."""
    return await sequentially(spawn(Execution(program), n), at, advanced, redraw or resampled(n))


async def rmsmc(program: Program[V], n: int, scores: int, moves: int, at: Scope) -> list[Particle[Execution[V]]]:
    """Resample-move: at each of the first `scores` scores, resample and make `moves` single-site moves on every run. Proper.

    The number of rounds is fixed beforehand: a Markov move keeps the measure on average only, not from each population, so
    whether to make one more may not depend on where the runs stand.
    """
    require(scores >= 0 and moves >= 0, f"scores and moves must be at least 0, not {scores} and {moves}")
    redraw: Move[Execution[V]] = resampled(n)
    pop = spawn(Execution(program), n)
    for reached in range(1, scores + 1):
        pop = await redraw(await advanced(pop, at), at)
        for place in at.fork(moves):
            pop = [single_site(p, reached, place) for p in pop]
    return await sequentially(pop, at, advanced)


async def pimh(propose: Callable[[Scope], Awaitable[Particle[S]]], moves: int, at: Scope) -> list[Particle[S]]:
    """Particle independent Metropolis-Hastings: the states of a chain of `moves` moves.

    A proposal is a weighted sample, such as `proper(await smc(...))`; it is accepted by the ratio of the weights. Leaves the
    law of the proposals, each counted by its weight, invariant; so its values follow the program.
    """
    require(moves >= 0, f"moves must be at least 0, not {moves}")
    chain = [await propose(at)]
    for _ in range(moves):
        chain.append(independent(chain[-1], await propose(at), at))
    return chain


def independent(now: Particle[S], new: Particle[S], at: Scope) -> Particle[S]:
    """One move of `pimh`. A dead state is left at once, and never entered from a living one."""
    if new.logw == -math.inf:
        return now
    return accepted(now, new, math.inf if now.logw == -math.inf else new.logw - now.logw, at)
