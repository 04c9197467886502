"""Perplexity consistency with reasoning pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.selection.protocol import Need, Verdict, selections
from forethought.selection.votes import Indices, Numbers, Tally, Votes, counted, voted
from forethought.selection.weibull import likely_high

FEWEST = 4  # different probabilities: a mixture of two laws of two parameters each is not fitted to fewer


@selections.register("rpc")
@dataclass(frozen=True)
class Rpc:
    """Perplexity consistency: each different text votes once, with its probability; improbable ones are pruned first.

    A draft's probability is exp(mean log-probability of its tokens). Pruning fits a mixture of two Weibull laws to them and
    drops those that more likely belong to the lower law and are below the mean as well. Nothing is pruned where fewer than
    4 probabilities differ or one is 0; the most probable draft always stays. `prune=False` is perplexity consistency alone.
    A draft whose log-probabilities are unknown has no vote. Weights are not looked at.
    Where all texts differ and are equally probable it is `majority`. Constants: as published (see `weibull`); 4 is ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"logprobs"})
    paper: ClassVar[str] = "Zhou et al. 2025, arXiv:2502.00511 (RPC), and its released code"

    prune: bool = True

    async def __call__(self, pop: Population[Draft], problem: Problem, by: By, at: Scope) -> Verdict:
        return await counted(self, pop, problem, by, at)

    def tally(self, votes: Votes) -> Tally:
        p = np.exp(np.nan_to_num(votes.pool.logprob, nan=-np.inf))[votes.rows]
        vote = p * new(votes.pool.text[votes.rows])
        return voted(votes, vote * kept(p) if self.prune else vote)


def new(texts: Indices) -> NDArray[np.bool_]:
    """Whether no earlier draft of the row has the same text."""
    order = texts.argsort(1, kind="stable")
    again = np.diff(np.take_along_axis(texts, order, 1), axis=1, prepend=-1) == 0
    found = np.empty(texts.shape, dtype=bool)
    np.put_along_axis(found, order, ~again, 1)
    return found


def kept(p: Numbers) -> NDArray[np.bool_]:
    """Which drafts of each row stay."""
    keep = np.ones(p.shape, dtype=bool)
    different = (np.diff(np.sort(p, 1), axis=1) > 1e-12).sum(1) + 1
    fits = (p > 0).all(1) & (different >= FEWEST)
    if fits.any():
        x = p[fits]
        keep[fits] = likely_high(x) | (x >= x.mean(1, keepdims=True))
    return keep
