"""Where the steps of a draft end: where the task's do, or where a method is told to break them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from forethought.core.draft import Draft
from forethought.core.registry import require
from forethought.tasks.protocol import Task

SENTENCE = (
    ". ",
    "? ",
    "! ",
    "\n",
)  # no more than every server takes; the first is put back where one trims what it met

Step: TypeAlias = str | int | None
"""The parameter `step` of methods: a number of tokens, a string behind which steps end, or `sentence`; None: the task's."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A step ends behind one of the strings `breaks`, or after `tokens` tokens; a draft has at most `most` steps."""

    breaks: tuple[str, ...]
    tokens: int
    most: int

    def whole(self, draft: Draft) -> list[bool]:
        """For each piece in order, whether a step ends with it: so a step counts once in however many it was drawn.

        The token that completes a break is kept whole, so text may stand behind the break.
        """
        found, start, text = [], 0, ""
        for piece in [*draft.lineage()][-2::-1]:
            text += piece.new
            found.append(piece.size - start >= self.tokens or any(end in text for end in self.breaks))
            if found[-1]:
                start, text = piece.size, ""
        return found

    def within(self, draft: Draft) -> bool:
        """Whether the last step has only begun."""
        return not self.whole(draft)[-1]

    def full(self, draft: Draft) -> bool:
        """Whether the draft has as many steps as it may. Asked at each step: pieces are read only where they may be enough."""
        pieces = sum(1 for _ in draft.lineage()) - 1
        return pieces >= self.most and sum(self.whole(draft)) >= self.most


def boundary_of(task: Task, step: Step) -> Boundary:
    """The boundary that `step` asks for. Steps that end behind a string are cut where the task cuts its own."""
    if isinstance(step, int):
        return Boundary((), step, math.ceil(task.draft_tokens / step))
    breaks = (task.step_break,) if step is None else SENTENCE if step == "sentence" else (step,)
    return Boundary(breaks, task.step_tokens, task.max_steps)


def check_step(name: str, step: Step) -> None:
    """Refuse a `step` of the method `name` at which no step could end. Raises UsageError."""
    sensible = step >= 1 if isinstance(step, int) else step != ""
    require(sensible, f"{name}: step is a number of tokens of at least 1, a string, or sentence, not {step!r}")
