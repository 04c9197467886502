from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import each, prune
from forethought.core.population import Particle, Population, ended
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.chances import distinct, likelihood
from forethought.methods.protocol import Law, Need, methods
from forethought.methods.self_eval import confidence, evaluate
from forethought.methods.steps import different, key

COLD = 5e-3  # below this temperature the best are taken, as in the released code


@methods.register("self-eval-beam")
@dataclass(frozen=True)
class SelfEvalBeam:
    """Stochastic beam search guided by self-evaluation: steps that are likely and that the model itself calls correct.

    A step's score is c^r * p^(1 - r), r = 2^rho / (2^rho + 1): p is the geometric mean probability of its tokens, c the
    probability that the model, asked whether the last step is (A) correct or (B) incorrect, says A; a run with a process
    verifier takes its grade for c. A draft's score is the geometric mean over its steps. Each round every draft draws
    `expand` steps; `width` different drafts are kept, drawn without replacement by e^(score / tau), tau = `tau` * `decay`^t.
    Equal steps of one draft are judged once and drawn as often as they came. An unknown c is factor 1. When all kept have
    ended, the finished of the last round's candidates come back, best first.
    Law: greedy; drafts with high scores are drawn more often, at tau 0 only the best. Weights are equal.
    Constants as in the paper's GSM8K runs: width 5, expand 16, tau 0.5, decay 1, rho 0, temperature 1. The released code's
    rejection step, which can leave no draft at all, is left out; its importance correction cancels when normalised.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "logprobs", "self-evaluation"})
    paper: ClassVar[str] = "Xie et al. 2023, arXiv:2305.00633, section 3, and its released code"

    width: int = 5
    expand: int = 16
    tau: float = 0.5
    decay: float = 1.0
    rho: float = 0.0
    temperature: float = 1.0
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, width=1, expand=1, tau=0, decay=0, temperature=0)
        require(abs(self.rho) <= 1000, f"self-eval-beam: rho must be from -1000 to 1000, not {self.rho}")
        check_step("self-eval-beam", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature, logprobs=0)
        pop: Population[Draft] = [Particle(ROOT)]
        tau = self.tau
        while not ended(pop):
            drawn = await each([p for p in pop for _ in range(1 if p.ended else self.expand)], step, at)
            times = Counter(key(p.state) for p in drawn)
            drawn = await evaluate(different(drawn), by, problem, at)
            pop = self.kept(drawn, [times[key(p.state)] for p in drawn], tau, by, at)
            tau *= self.decay
            at.keep(pop)
        last = prune(drawn, len(drawn), key=lambda p: self.log_score(p.state, by))
        return [p for p in last if p.state.finished] or pop

    def kept(
        self, drawn: Population[Draft], times: Sequence[int], tau: float, by: By, at: Scope
    ) -> list[Particle[Draft]]:
        """`width` of the different steps that were drawn."""
        if tau < COLD:
            return prune(drawn, self.width, key=lambda p: self.log_score(p.state, by))
        scores = np.exp([self.log_score(p.state, by) for p in drawn])
        law = times * np.exp((scores - scores.max(initial=0.0)) / tau)
        return [drawn[i] for i in distinct(law, self.width, at)]

    def log_score(self, draft: Draft, by: By) -> float:
        """The mean over the draft's steps of r * log c + (1 - r) * log p."""
        r: float = 1 / (1 + 2.0**-self.rho)
        *steps, _ = draft.lineage()
        return sum(r * log_confidence(d, by) + (1 - r) * likelihood(d) for d in steps) / len(steps)


def log_confidence(draft: Draft, by: By) -> float:
    c = confidence(draft, by)
    return 0.0 if c is None else math.log(c) if c > 0 else -math.inf
