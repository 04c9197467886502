from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.operators import branch, each
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Scope
from forethought.methods.by import By
from forethought.methods.drawing import told, written
from forethought.methods.kernels import Extend
from forethought.methods.protocol import Law, Need, methods


@dataclass(frozen=True, slots=True)
class Think:
    """A kernel that writes until the thinking ends, or until the draft has `most` tokens in all."""

    piece: Extend
    most: int

    def _left(self, draft: Draft) -> Extend:
        return replace(self.piece, most=self.most - draft.size)

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self._left(particle.state).bound(particle)

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        return await self._left(particle.state)(particle, at)


@methods.register("budget-forcing")
@dataclass(frozen=True)
class BudgetForcing:
    """Budget forcing (s1): think no longer than `most` tokens, and not just once.

    Thinking ends at the text `end`. The first `waits` times the model writes it, it is taken back and `wait` is put in its
    place. A draft that has thought `most` tokens is told `final` and has to answer; by default these are the tokens of the
    task's cap on drafts less those of one step, the room for the answer. A draft that ends without `end` is left as it is.
    `n` drafts side by side.
    Law: greedy; the drafts hold words that the model did not choose. With `waits=0` and `most` at the task's cap on drafts,
    which leaves no room to tell them anything, it is `sample(n)`.
    Constants: `Wait` and 1, 2, 4 or 6 times are published. What ends thinking belongs to the model: the default is how the
    shipped tasks begin their answers; think-token models need `end='</think>', final='</think>Final Answer:'`. The embedded
    reasoner never learned to go on after an answer, and has no capital letters.
    """

    law: ClassVar[Law] = "greedy"
    needs: ClassVar[frozenset[Need]] = frozenset({"continue"})
    paper: ClassVar[str] = "Muennighoff et al. 2025, arXiv:2501.19393, section 3.1"

    n: int = 1
    waits: int = 1
    most: int | None = None
    wait: str = "Wait"
    end: str = "answer:"
    final: str = "\nanswer: "
    temperature: float = 0.8

    def __post_init__(self) -> None:
        at_least(self, n=1, waits=0, most=1, temperature=0)
        require(bool(self.end), "budget-forcing: end must not be empty")

    async def __call__(self, problem: Problem, by: By, at: Scope) -> Population[Draft]:
        room = max(by.task.draft_tokens - by.task.step_tokens, 1)
        most = min(self.most or room, by.task.draft_tokens)
        think = Think(by.piece(problem, self.temperature, stop=(self.end,)), most)
        pop = await each(branch([Particle(ROOT)], [self.n]), think, at)
        for _ in range(self.waits):
            pop = await each([self._go_on(p, most) for p in pop], think, at)
        return await each([self._conclude(p) for p in pop], by.draft(problem, self.temperature), at)

    def _go_on(self, particle: Particle[Draft], most: int) -> Particle[Draft]:
        """Take the end of thinking back. Whoever may think no more stays done until all are."""
        draft = particle.state
        if particle.ended or draft.size >= most:
            return replace(particle, done=True)
        thought, _, _ = draft.new.partition(self.end)
        assert draft.parent is not None
        kept = written(draft.parent, thought, size=draft.size)
        return particle.moved(written(kept, self.wait))

    def _conclude(self, particle: Particle[Draft]) -> Particle[Draft]:
        """Who has not ended answers now: after the `end` that it wrote, or after `final`."""
        draft = particle.state
        if draft.finish is not None:
            return particle
        said = draft if self.end in draft.new else told(draft, self.final)
        return replace(particle, state=said, done=False)
