from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar, Literal

from forethought.core.blocks import resampled, sequentially, spawn
from forethought.core.draft import ROOT, Draft
from forethought.core.population import Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.resample import Scheme
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.weigh import weighed

Form = Literal["difference", "max", "sum"]


def potentials(rewards: Sequence[float], form: Form) -> list[float]:
    """The log-potential of each step but the last, which makes up for these (see `Steer`), at strength 1."""
    if form == "difference":
        return [later - earlier for earlier, later in pairwise([0.0, *rewards])]
    return list(accumulate(rewards, max if form == "max" else None))


@methods.register("steer")
@dataclass(frozen=True)
class Steer:
    """Feynman-Kac steering: particles drawn along by potentials made of a reward, a constraint on the text, or a classifier.

    Law: proper; the expected measure is the model's times exp(strength * reward of the whole draft), for every `form`.
    The reward is what the verifier says of the draft so far: its `grade`, or with `of=log` the logarithm of it, which for
    a constraint (grade 0: see the verifier `pattern`) ends the particle, and for a classifier gives its probability to the
    power `strength`; the law then needs a grade that stays 0 once it is 0. An unknown grade is a reward of 0. A step weighs
    exp(strength * x), where x is the change of the reward (`difference`), the greatest reward so far (`max`) or the sum of
    all so far (`sum`); the last step of a draft divides by what earlier ones gave, so that the whole is
    exp(strength * final reward). Equal steps of one draft are graded once.
    Constants as published for images: n 4, strength 10, multinomial resampling below an effective sample size of n/2.
    """

    law: ClassVar[Law] = "proper"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "process"})
    paper: ClassVar[str] = "Singhal et al. 2025, arXiv:2501.06848, and its released code"

    n: int = 4
    form: Form = "difference"
    strength: float = 10.0
    of: Literal["grade", "log"] = "grade"
    resampling: Scheme = "multinomial"
    ess: float = 0.5
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, strength=0, temperature=0)
        require(0 <= self.ess <= 1, f"steer: ess is a share of n, from 0 to 1, not {self.ess}")
        check_step("steer", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        move = weighed(problem, by, by.step(problem, self.temperature), lambda draft: self._gain(draft, by))
        return await sequentially(spawn(ROOT, self.n), at, move, resampled(self.n, self.resampling, self.ess))

    def _gain(self, draft: Draft, by: By) -> float:
        rewards = [self._reward(d, by) for d in draft.lineage() if d.parent is not None][::-1]
        if self.strength == 0:
            return 0.0
        if rewards[-1] == -math.inf:
            return -math.inf
        *earlier, last = potentials(rewards, self.form)
        return self.strength * (last if draft.finish is None else rewards[-1] - math.fsum(earlier))

    def _reward(self, draft: Draft, by: By) -> float:
        grade = by.value(draft)
        if grade is None or self.of == "grade":
            return grade or 0.0
        return math.log(grade) if grade > 0 else -math.inf
