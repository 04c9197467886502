"""What verifiers around another one share: they ask it, and change what it says of what is new."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.models.protocol import Loads, weights_in
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import OfRun, given, look
from forethought.verifiers.endpoint import steps_of
from forethought.verifiers.protocol import Verifier, nearest, verifiers


class Around(OfRun):
    """A verifier around the verifier `of`, which it asks in the name of."""

    of: str

    @functools.cached_property
    def inner(self) -> Verifier:
        inner = verifiers.parse(self.of)
        return inner if self.own is None else given(inner, self.own)

    async def prepare(self) -> None:
        await look(self.inner)

    def load(self) -> None:
        if isinstance(self.inner, Loads):
            self.inner.load()

    @property
    def weights(self) -> str:
        """Those of the verifier inside, empty if it has none. Raises UsageError if they cannot be read."""
        return weights_in(self.inner)

    @property
    def process(self) -> bool:
        return self.inner.process

    def oracle(self, task: Task) -> bool:
        return self.inner.oracle(task)

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        """The bound of the verifier inside, which is all that a grade costs."""
        return self.inner.bound(self._seen(draft), problem, task)

    async def asked(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        """The grade and the cost of the verifier inside. Raises what it raises."""
        return await self.inner.grade(self._seen(draft), problem, task, call)

    def changed(self, draft: Draft, said: Grade, value: float, steps: Sequence[float]) -> Grade:
        """What the inner verifier `said`, with a new `value` and new grades of its steps.

        A step that was graded with a beginning of the draft keeps that grade: it is neither changed twice nor drawn anew.
        """
        before = nearest(draft, str(self))
        known = before.grades[str(self)].steps if before else ()
        kept = min(len(known), len(said.steps) - 1)
        return replace(said, value=value, steps=(*known[:kept], *steps[kept:-1], value) if said.steps else ())

    def _seen(self, draft: Draft) -> Draft:
        """The draft as the inner verifier would have left it: with its name on what it has graded and need not read again."""
        pieces, name = list[Draft](), str(self)
        for piece in draft.lineage():  # down to the nearest that was graded: nobody looks further
            pieces.append(piece)
            if piece is not draft and name in piece.grades:
                break
        else:
            return draft
        *above, seen = pieces
        seen = replace(seen, grades=MappingProxyType({**seen.grades, str(self.inner): seen.grades[name]}))
        for piece in reversed(above):
            seen = replace(piece, parent=seen)
        return seen


def written_steps(draft: Draft, task: Task) -> list[str]:
    """The steps so far, by the task's break, in however many pieces they were drawn; where it has none, the pieces."""
    return steps_of(draft.text, task) if task.step_break else draft.steps or [""]
