"""Thompson sampling among the children of a tree's nodes, each update in constant time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from forethought.methods.tree import Node, Scores

MEAN, KAPPA, NU, TAU2 = 0.0, 1.0, 1.0, 0.1  # the normal-inverse-chi-square prior
JEFFREYS = 0.5

Floats = NDArray[np.float64]
Posterior = tuple[float, float, float]


def normal(scores: Scores, pending: int) -> Posterior:
    """Of the mean of normal scores: Student's t, as degrees of freedom, centre and scale.

    The variance is scaled-inverse-chi-square and the mean normal given it. What is pending sharpens the mean as if it came
    out there.
    """
    n = scores.n
    mean = scores.total / n if n else MEAN
    kappa, nu = KAPPA + n, NU + n
    spread = max(scores.squares - n * mean**2, 0.0)  # below zero only by rounding
    tau2 = (NU * TAU2 + spread + KAPPA * n / kappa * (MEAN - mean) ** 2) / nu
    return nu, (KAPPA * MEAN + scores.total) / kappa, math.sqrt(tau2 / (kappa + pending))


def beta(scores: Scores, pending: int) -> Posterior:
    """Of the chance of success, where scores lie in [0, 1]: the two parameters of a beta law, from Jeffreys prior."""
    return JEFFREYS + scores.total, JEFFREYS + scores.n - scores.total, 0.0


def draw_normal(arms: Floats, chance: np.random.Generator) -> Floats:
    return np.asarray(arms[1] + arms[2] * chance.standard_t(arms[0]))


def draw_beta(arms: Floats, chance: np.random.Generator) -> Floats:
    return np.asarray(chance.beta(arms[0], arms[1]))


Prior = tuple[Callable[[Scores, int], Posterior], Callable[[Floats, np.random.Generator], Floats]]
PRIORS: dict[str, Prior] = {"normal": (normal, draw_normal), "beta": (beta, draw_beta)}


@dataclass(slots=True)
class Arms:
    """The children of one node that can be gone deeper into, with the posteriors of their scores, a column each."""

    children: list[Node] = field(default_factory=list)
    table: Floats = field(default_factory=lambda: np.empty((3, 2)))
    places: dict[Node, int] = field(default_factory=dict)

    def put(self, child: Node, posterior: Posterior) -> None:
        """Enter a child, or what is known of it now."""
        place = self.places.get(child)
        if place is None:
            place = self.places[child] = len(self.children)
            self.children.append(child)
            if place == self.table.shape[1]:
                self.table = np.concatenate([self.table, np.empty_like(self.table)], axis=1)
        self.table[:, place] = posterior

    @property
    def known(self) -> Floats:
        return self.table[:, : len(self.children)]


def columns(posteriors: Sequence[Posterior]) -> Floats:
    return np.array(posteriors).T
