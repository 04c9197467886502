"""Resampling: draw survivors by any law with full support and correct the weights.

Every scheme draws particle i an expected n * law_i times and lets it carry w_i / (n * law_i), so the measure is kept in
expectation (Douc & Cappe 2005, arXiv:cs/0507025). `optimal` draws without replacement (Fearnhead & Clifford 2003).
Uniform numbers enter only by the cell in which they fall between the law's breakpoints, so each scheme has finitely many
outcomes and can be enumerated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from forethought.core.population import Particle, Population, S
from forethought.core.scope import Scope

Scheme = Literal["systematic", "stratified", "multinomial", "residual", "optimal"]
Law = NDArray[np.float64]
Picks = NDArray[np.intp]


def resample(
    pop: Population[S], n: int, law: Sequence[float] | Law, at: Scope, scheme: Scheme = "systematic"
) -> list[Particle[S]]:
    """`n` survivors of `pop`, drawn by `law` (one probability a particle; it is normalised here).

    `law` must be positive where the particle is alive and is taken as zero where it is dead. `optimal` returns fewer
    than `n` if fewer are alive. Of nobody nobody survives: a population without mass keeps having none. Raises ValueError
    if all are dead, the law lacks support, or `n` is not positive.
    """
    if n < 1:
        raise ValueError(f"resampling needs at least one survivor, not {n}")
    if not pop:
        return []
    alive = np.array([p.logw > -np.inf for p in pop])
    probs = np.where(alive, np.asarray(law, dtype=float), 0.0)
    if not alive.any() or (probs[alive] <= 0).any() or not np.isfinite(probs).all():
        raise ValueError("resampling needs a living particle, and a positive finite probability for each that lives")
    probs = probs / probs.sum()
    if scheme == "optimal":
        picks, chance = without_replacement(probs, n, at)
    else:
        picks, chance = SCHEMES[scheme](probs, n, at), n * probs
    gains = -np.log(chance[picks])
    at.note("resample", {"parents": picks.tolist(), "scheme": scheme})
    return [
        pop[i].moved(pop[i].state, gain=g, done=pop[i].done)
        for i, g in zip(picks.tolist(), gains.tolist(), strict=True)
    ]


def cell_middle(breaks: Law, at: Scope) -> float:
    """A uniform number in [0, 1), drawn as the middle of a cell between breakpoints."""
    cuts = np.unique(np.concatenate([[0.0, 1.0], breaks]))
    cell = at.draw(np.diff(cuts).tolist())
    return float((cuts[cell] + cuts[cell + 1]) / 2)


def systematic(law: Law, n: int, at: Scope) -> Picks:
    """One uniform number for all survivors: least variance in practice."""
    edges = np.cumsum(law)
    u = cell_middle(n * edges % 1.0, at)
    return locate(edges, (np.arange(n) + u) / n)


def locate(edges: Law, points: NDArray[np.floating[Any]]) -> Picks:
    last = int(np.searchsorted(edges, edges[-1]))  # the last particle with any mass
    return np.minimum(np.searchsorted(edges, points, side="right"), last)


def stratified(law: Law, n: int, at: Scope) -> Picks:
    """One uniform number in each n-th of the mass."""
    edges = np.minimum(np.cumsum(law) * n, n)
    cuts = np.unique(np.concatenate([np.arange(n + 1.0), edges]))
    widths, cells = np.diff(cuts).tolist(), np.searchsorted(cuts, np.arange(n + 1.0))
    chosen = cells[:-1].copy()
    for k in np.flatnonzero(np.diff(cells) > 1).tolist():  # more than one particle lies in this stratum
        chosen[k] += at.draw(widths[cells[k] : cells[k + 1]])
    return locate(edges, (cuts[chosen] + cuts[chosen + 1]) / 2)


def multinomial(law: Law, n: int, at: Scope) -> Picks:
    """Independent draws."""
    return at.draws(law.tolist(), n)


def residual(law: Law, n: int, at: Scope) -> Picks:
    """The whole part of n * law_i for certain, the rest by independent draws."""
    expected = n * law
    whole = np.floor(expected + 1e-12).astype(int)
    certain = np.repeat(np.arange(len(law)), whole)
    rest = n - len(certain)
    if not rest:
        return certain
    return np.concatenate([certain, at.draws(np.maximum(expected - whole, 0.0).tolist(), rest)])


SCHEMES: dict[str, Callable[[Law, int, Scope], Picks]] = {
    "systematic": systematic,
    "stratified": stratified,
    "multinomial": multinomial,
    "residual": residual,
}
assert {*SCHEMES, "optimal"} == set(get_args(Scheme))


def without_replacement(law: Law, n: int, at: Scope) -> tuple[Picks, Law]:
    """Keep the heavy, thin the light: particle i stays with chance min(1, c * law_i), where these chances sum to n.

    Returns the survivors and every particle's chance. Light ones are drawn systematically, each at most once.
    """
    chance = inclusion(law, n)
    heavy = np.flatnonzero(chance >= 1.0)
    light = np.flatnonzero((chance < 1.0) & (chance > 0.0))
    count = n - len(heavy)
    if not light.size or count <= 0:
        return heavy, chance
    drawn = light[systematic(chance[light] / chance[light].sum(), count, at)]
    return np.sort(np.concatenate([heavy, drawn])), chance


def inclusion(law: Law, n: int) -> Law:
    """min(1, c * law_i) with c such that the sum is n; all ones if at most n have any mass."""
    positive = np.sort(law[law > 0])[::-1]
    if len(positive) <= n:
        return (law > 0).astype(float)
    light_mass = np.cumsum(positive[::-1])[::-1]  # mass of the k-th heaviest and all lighter ones
    heavy = np.arange(len(positive))
    c = (n - heavy[:n]) / light_mass[:n]
    count = int(np.flatnonzero(c * positive[:n] < 1.0)[0]) if (c * positive[:n] < 1.0).any() else n - 1
    scale = (n - count) / light_mass[count]
    threshold = positive[count - 1] if count else np.inf
    return np.where(law >= threshold, 1.0, scale * law)
