from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.chances import distinct, likelihood, softmax
from forethought.methods.foresight import Pair, agreement, clustered, gains, paired
from forethought.methods.keeping import keeping
from forethought.methods.protocol import Law, Need, methods


@methods.register("phi-decoding")
@dataclass(frozen=True)
class PhiDecoding:
    """phi-Decoding: steps are chosen by what a glance ahead says of them, its likelihood and its agreement with others.

    At each of at most `depth` steps: each of `width` drafts draws `expand` steps; those whose mean log-probability is at least
    `sigma` deviations below average are dropped (in-width pruning), unless fewer than `width` would stay; each of the
    others is written to its end once. Its value is the mean log-probability of that foresight, its advantage the gain over
    its parent's value. `width` steps are drawn without replacement by the average of two softmaxes, of the share of the
    foresight's cluster and of advantage / `temper`. From step `least` on the search ends when the largest cluster holds more
    than `threshold` of the foresights, and after it also when all are the same (in-depth pruning). Then all are finished.
    Law: greedy; the weights are those by which the paper draws its one answer: softmax of advantage / `temper` in the larger
    of two clusters of the finished drafts, zero elsewhere.
    Constants as published; `threshold` is 0.7 in the released code, which also drops steps of no advantage before it
    clusters, lets a large cluster seen before step `least` end the search there, and looks for the same steps instead of
    foresights. Where it fails (fewer steps than `width`) or does nothing sensible, this differs: it takes all there are, a
    finished draft stays and costs nothing more (its last step is its foresight), the last selection before an early end is
    kept, and a foresight is clustered together with the step it follows.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "logprobs"})
    paper: ClassVar[str] = "Xu et al. 2025, arXiv:2503.13288 (phi-Decoding), and its released code"

    width: int = 4
    expand: int = 4
    depth: int = 8
    least: int = 4
    clusters: int = 3
    sigma: float = 1.0
    threshold: float = 0.69
    temper: float = 0.1
    temperature: float = 0.6
    foresight: float = 1.0
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, width=1, expand=1, clusters=1, depth=0, least=0, sigma=0, temperature=0, foresight=0)
        require(0 <= self.threshold <= 1, f"phi-decoding: threshold is a share, from 0 to 1, not {self.threshold}")
        require(self.temper > 0, f"phi-decoding: temper must be positive, not {self.temper}")
        check_step("phi-decoding", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature, logprobs=0)
        look = replace(by, grade_drafts=False).draft(problem, self.foresight, logprobs=0)
        pop, value = [Particle(ROOT)] * self.width, {ROOT: 0.0}
        seen: list[Particle[Draft]] = []  # the last foresights: finished drafts to answer from
        for depth in range(self.depth):
            growing, stay = [p for p in pop if not p.ended], [p for p in pop if p.ended]
            if not growing:
                break
            with keeping(seen, at):
                drawn = await each([p for p in growing for _ in range(self.expand)], step, at)
                kept = [*stay, *(self.in_width(drawn, self.width - len(stay), at) if drawn else [])]
                seen = await each(kept, look, at)
            pairs = paired(kept, seen)
            if not pairs:  # all foresights were dropped after failures
                return kept
            shares = agreement(pairs, self.clusters)
            law = softmax(shares) + softmax(gains(pairs, value) / self.temper)
            chosen = [pairs[i] for i in distinct(law, self.width, at)]
            pop = [Particle(draft, done=draft.finish is not None) for draft, _ in chosen]
            value = {draft: likelihood(end) for draft, end in chosen}
            agreed = depth + 1 >= self.least and max(shares) > self.threshold
            if agreed or (depth >= self.least and len({end.text for _, end in pairs}) == 1):
                break
        with keeping(seen, at):
            made = await each(pop, by.draft(problem, self.foresight, logprobs=0), at)
        finished = [pair for pair in paired(pop, made) if pair[1].finished]
        return self.weighed(finished, value) if finished else made

    def in_width(self, drawn: Population[Draft], fewest: int, at: Scope) -> Population[Draft]:
        """The steps that are likely enough to look ahead from, at least `fewest` if there are as many."""
        scores = np.array([likelihood(p.state) for p in drawn])
        enough = scores > np.average(scores) - self.sigma * np.std(scores)
        rest, missing = np.flatnonzero(~enough), fewest - int(enough.sum())
        enough[rest[distinct(softmax(scores[rest] / self.temper), missing, at)]] = True
        return [p for p, ok in zip(drawn, enough, strict=True) if ok]

    def weighed(self, pairs: Sequence[Pair], value: dict[Draft, float]) -> list[Particle[Draft]]:
        """The finished drafts with the chances by which the paper draws one of them."""
        labels = clustered(pairs, 2)
        largest = labels == np.bincount(labels).argmax()
        law = softmax(np.where(largest, gains(pairs, value) / self.temper, -math.inf))
        logs = [math.log(p) if p > 0 else -math.inf for p in law.tolist()]
        return [Particle(end, logw, done=True) for (_, end), logw in zip(pairs, logs, strict=True)]
