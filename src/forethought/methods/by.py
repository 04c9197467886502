"""What a method works with: a model, a task, a verifier, and the kernels made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Scope
from forethought.methods.boundary import Boundary, Step, boundary_of
from forethought.methods.kernels import Extend, Graded
from forethought.models.protocol import Model
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import given
from forethought.verifiers.grading import Grading, grade_all, grade_of
from forethought.verifiers.protocol import Verifier


@dataclass(frozen=True, slots=True)
class By:
    """The parts that a method may use. `verifier` is None where there is none.

    `grade_drafts` says that the selection will want grades of whole drafts, `logprobs` that it will want the
    log-probabilities of their tokens. `steps_end` is where steps end, where a method does not leave that to the task.
    """

    model: Model
    task: Task
    verifier: Verifier | None = None
    grade_drafts: bool = False
    logprobs: bool = False
    steps_end: Step = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "verifier", given(self.verifier, self.model))

    def draft(self, problem: Problem, temperature: float, *, logprobs: int | None = None) -> Extend | Graded:
        """A kernel that writes a draft to its end, and grades it where the selection will want that."""
        extend = self.piece(problem, temperature, logprobs=logprobs)
        return Graded(extend, Grading(self._verifier, problem, self.task)) if self.grade_drafts else extend

    def stepped(self, step: Step) -> By:
        """The same parts, with steps that end where `step` says (None: where these do)."""
        return self if step is None else replace(self, steps_end=step)

    @property
    def boundary(self) -> Boundary:
        """Where steps end."""
        return boundary_of(self.task, self.steps_end)

    def step(
        self, problem: Problem, temperature: float, *, most: int | None = None, logprobs: int | None = None
    ) -> Extend:
        """A kernel that writes one step, to its break or the end of the text, or the first `most` tokens of one."""
        steps = self.boundary
        most = steps.tokens if most is None else min(most, steps.tokens)
        piece = self.piece(problem, temperature, stop=steps.breaks, most=most, logprobs=logprobs)
        return replace(piece, boundary=steps)

    def piece(
        self,
        problem: Problem,
        temperature: float,
        *,
        stop: tuple[str, ...] = (),
        most: int | None = None,
        logprobs: int | None = None,
    ) -> Extend:
        """A kernel that writes up to and including one of the `stop` strings, or `most` tokens."""
        asked = 0 if logprobs is None and self.logprobs else logprobs
        return Extend(self.model, self.task, self.task.prompt(problem), temperature, stop, most, asked)

    async def grade(self, pop: Population[Draft], problem: Problem, at: Scope) -> list[Particle[Draft]]:
        """Grade every draft that has no grade yet, in one round."""
        return await grade_all(pop, self._verifier, problem, self.task, at)

    def value(self, draft: Draft) -> float | None:
        """A draft's grade; None if unknown."""
        return grade_of(draft, self._verifier).value

    @property
    def _verifier(self) -> Verifier:
        if self.verifier is None:
            raise UsageError("there is no verifier to grade with")
        return self.verifier
