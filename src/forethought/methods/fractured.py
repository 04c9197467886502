from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.draft import ROOT, Draft
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population, ended
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.boundary import Step, check_step
from forethought.methods.by import By
from forethought.methods.drawing import told
from forethought.methods.protocol import Law, Need, methods


@methods.register("fractured")
@dataclass(frozen=True)
class Fractured:
    """Fractured sampling: `n` traces, each cut at `cuts` depths, `answers` answers from each cut.

    A trace of L units of thinking is cut behind unit floor(i * L / cuts) for i = 1 ... cuts; the text `end` is put there,
    and the answers are drawn. The last cut is the whole trace, whose own answer is one of those that belong to it. All
    n * cuts * answers drafts vote; those of one trace share its beginning, so they are not independent.
    Law: greedy; answers from cut traces are no drafts of the model. `cuts=1, answers=1` is `sample(n)`.
    Constants: n 16, cuts 16, answers 4, temperature 0.6 are published; here the numbers are smaller. A unit is a step:
    the paper counts tokens, which is `step=1`. `end` is how the shipped tasks begin their answers; for think-token models it
    is `</think>`.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue"})
    paper: ClassVar[str] = "Liao et al. 2025, arXiv:2505.12992 and its released code"

    n: int = 4
    cuts: int = 4
    answers: int = 1
    end: str = "\nanswer: "
    temperature: float = 0.8
    step: Step = None

    def __post_init__(self) -> None:
        at_least(self, n=1, cuts=1, answers=1, temperature=0)
        require(bool(self.end.strip()), "fractured: end must not be empty")
        check_step("fractured", self.step)

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        by = by.stepped(self.step)
        step = by.step(problem, self.temperature)
        pop: list[Particle[Draft]] = branch([Particle(ROOT)], [self.n])
        while not ended(pop):
            pop = await each(pop, step, at)
        pop = [fork for p in pop for fork in branch([p], [self.cuts * self.answers])]
        places = [i for _ in pop[:: self.cuts * self.answers] for i in range(self.cuts * self.answers)]
        opened = [self._cut(p, i) for p, i in zip(pop, places, strict=True)]
        return await each(opened, by.draft(problem, self.temperature), at)

    def _cut(self, particle: Particle[Draft], place: int) -> Particle[Draft]:
        """Answer number `place` of a trace: the first is the trace itself, the last ones belong to the shallowest cuts."""
        if place == 0:
            return particle
        thoughts = self._thoughts(particle.state)
        depth = self.cuts - place // self.answers
        cut = thoughts[depth * (len(thoughts) - 1) // self.cuts]
        return Particle(told(cut, self.end), particle.logw)

    def _thoughts(self, draft: Draft) -> list[Draft]:
        """The beginnings of a trace before its answer, the empty one first."""
        thought = draft.text.split(self.end.strip(), 1)[0]
        return [d for d in draft.lineage() if len(d.text) <= len(thought)][::-1]
