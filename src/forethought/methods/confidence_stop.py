from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population, ended
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.drawing import answers, told
from forethought.methods.protocol import Law, Need, methods


def confidence(draft: Draft) -> float:
    """The geometric mean of the probabilities of the tokens that the draft wrote last; 0 if the model does not tell them."""
    return math.exp(math.fsum(draft.logprobs) / len(draft.logprobs)) if draft.logprobs else 0.0


@methods.register("confidence-stop")
@dataclass(frozen=True)
class ConfidenceStop:
    """Stop a chain as soon as its answer is settled.

    After every `every` steps the chain is told `end` and asked, at temperature 0, what it would answer now. It ends with
    that answer if the last `runs` of these are equal and the last has a confidence of at least `threshold` (0: equality
    alone decides); else the probe is thrown away, though not its cost, and the chain goes on. `n` chains side by side. If
    the budget ends at a probe, the trial answers drawn so far are what there is.
    Law: greedy; early answers are no drafts of the model. With `threshold=2`, never reached, it is `sample(n)`.
    Constants: confidence 0.95 on trial answers is DEER's, two equal answers in a row TrimR's (where a small model reads
    the segments); ConCISE asks for one token instead. Probing after steps rather than at words like `Wait` is ours.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue", "logprobs"})
    paper: ClassVar[str] = (
        "Yang et al. 2025, arXiv:2504.15895 (DEER); Qiao et al. 2025, arXiv:2505.04881 (ConCISE); "
        "Lin et al. 2025, arXiv:2505.17155 (TrimR)"
    )

    n: int = 1
    threshold: float = 0.95
    runs: int = 2
    every: int = 1
    end: str = "\nanswer: "
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, runs=1, every=1, threshold=0, temperature=0)
        require(bool(self.end.strip()), "confidence-stop: end must not be empty")
        check_step("confidence-stop", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature)
        probe = by.step(problem, 0.0)
        pop: list[Particle[Draft]] = branch([Particle(ROOT)], [self.n])
        trials: list[list[Particle[Draft]]] = [[] for _ in pop]
        while not ended(pop):
            for _ in range(self.every):
                pop = await each(pop, step, at, failures="fail")  # a chain dropped would shift its neighbours' answers
            tried = await each([self._asked(p) for p in pop], probe, at, failures="fail")
            for i, p in enumerate(tried):
                if not pop[i].ended:
                    trials[i].append(self._closed(p))
                    pop[i] = trials[i][-1] if await self._settled(trials[i], problem, by, at) else pop[i]
        return pop

    def _asked(self, particle: Particle[Draft]) -> Particle[Draft]:
        return particle if particle.ended else replace(particle, state=told(particle.state, self.end))

    def _closed(self, particle: Particle[Draft]) -> Particle[Draft]:
        """A trial answer as a draft that ends with it. Nothing came back: it cannot be read."""
        return particle.moved(replace(particle.state, finish="end"), done=True)

    async def _settled(self, trials: Population[Draft], problem: Problem, by: By, at: Scope) -> bool:
        last = await answers(trials[-self.runs :], problem, by, at)
        agreed = len(last) == self.runs and last[0] is not None and len(set(last)) == 1
        return agreed and confidence(trials[-1].state) >= self.threshold
