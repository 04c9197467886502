"""What a method works with: a model, a task, a verifier, and the kernels made of them."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Finish
from forethought.core.errors import UsageError
from forethought.core.population import Particle, Population
from forethought.core.problem import Message, Problem
from forethought.core.scope import Scope
from forethought.models.extend import extend
from forethought.models.protocol import Completion, Model, Request
from forethought.tasks.protocol import Task
from forethought.verifiers.grading import Grading, grade_all, grade_of
from forethought.verifiers.protocol import Aggregation, Verifier, aggregate


@dataclass(frozen=True, slots=True)
class Extend:
    """A kernel that lets the model go on: by one step (`stop` is the task's step break) or to the end of the draft."""

    model: Model
    task: Task
    messages: tuple[Message, ...]
    temperature: float
    stop: tuple[str, ...] = ()
    logprobs: bool = False  # whether those of the chosen tokens are asked for

    def request(self, draft: Draft) -> Request:
        room = self.task.draft_tokens - draft.size
        cap = min(room, self.task.step_tokens) if self.stop else room
        return Request(self.messages, draft, cap, self.stop, self.temperature, logprobs=0 if self.logprobs else None)

    def bound(self, particle: Particle[Draft]) -> Cost:
        return self.model.bound(self.request(particle.state))

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        draft, request = particle.state, self.request(particle.state)
        completion = await extend(self.model, request, at)
        finish = self._finish(draft, completion, request.max_tokens)
        size = draft.size + completion.cost.new_tokens
        grown = Draft(draft, completion.text, completion.tokens, completion.logprobs, size, finish, completion.cost)
        return particle.moved(grown, done=finish is not None)

    def _finish(self, draft: Draft, completion: Completion, asked: int) -> Finish | None:
        """Whether the draft goes no further. A long step that was cut at the step's cap goes on as the next step."""
        if completion.finish == "end" or not completion.text:
            return "end"
        new = completion.cost.new_tokens
        cut = completion.finish == "length" and (not self.stop or new < asked)
        full = draft.size + new >= self.task.draft_tokens or (self.stop and len(draft.steps) + 1 >= self.task.max_steps)
        return "length" if cut or full else None


@dataclass(frozen=True, slots=True)
class Graded:
    """A kernel that writes a draft to its end and grades it at once, so that a budget pays for both or for neither."""

    extend: Extend
    grading: Grading

    def bound(self, particle: Particle[Draft]) -> Cost:
        longest = Draft(size=self.extend.task.draft_tokens)
        return self.extend.bound(particle) + self.grading.bound(Particle(longest))

    async def __call__(self, particle: Particle[Draft], at: Scope) -> Particle[Draft]:
        drafted = await self.extend(particle, at)
        return await self.grading(drafted, at) if drafted.state.finished else drafted


@dataclass(frozen=True, slots=True)
class By:
    """The parts that a method may use. `verifier` is None where there is none.

    `grade_drafts` says that the selection will want grades of whole drafts.
    """

    model: Model
    task: Task
    verifier: Verifier | None = None
    grade_drafts: bool = False

    def draft(self, problem: Problem, temperature: float, *, logprobs: bool = False) -> Extend | Graded:
        """A kernel that writes a draft to its end, and grades it where the selection will want that."""
        extend = Extend(self.model, self.task, self.task.prompt(problem), temperature, logprobs=logprobs)
        return Graded(extend, Grading(self._verifier, problem, self.task)) if self.grade_drafts else extend

    def step(self, problem: Problem, temperature: float, *, logprobs: bool = False) -> Extend:
        """A kernel that writes one step: text up to and including the task's step break, or the end of the text."""
        return Extend(self.model, self.task, self.task.prompt(problem), temperature, (self.task.step_break,), logprobs)

    async def grade(self, pop: Population[Draft], problem: Problem, at: Scope) -> list[Particle[Draft]]:
        """Grade every draft that has no grade yet, in one round."""
        return await grade_all(pop, self._verifier, problem, self.task, at)

    def value(self, draft: Draft, how: Aggregation = "last") -> float | None:
        """A draft's grade as one number; None if unknown."""
        return aggregate(grade_of(draft, self._verifier), how)

    @property
    def _verifier(self) -> Verifier:
        if self.verifier is None:
            raise UsageError("there is no verifier to grade with")
        return self.verifier
