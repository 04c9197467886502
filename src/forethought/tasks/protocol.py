"""What the rest of the house knows about a kind of problem."""

from __future__ import annotations

from typing import Protocol

from forethought.core.problem import Message, Problem


class Task(Protocol):
    """A kind of problem: how to prompt, how to read an answer out of a text, how to check it, where its steps break.

    All knowledge of a data set lives in a task; methods contain none.
    """

    @property
    def name(self) -> str: ...

    @property
    def step_break(self) -> str:
        """A step is the text up to and including this string, or up to the end of the text."""
        ...

    @property
    def step_tokens(self) -> int:
        """A realistic cap on the tokens of one step: what a budget reserves for it."""
        ...

    @property
    def draft_tokens(self) -> int:
        """A realistic cap on the tokens of a whole draft."""
        ...

    @property
    def max_steps(self) -> int: ...

    def prompt(self, problem: Problem) -> tuple[Message, ...]: ...

    def answer(self, text: str, problem: Problem) -> str | None:
        """The canonical answer of a finished draft; None if it cannot be read. Equal answers are equal strings."""
        ...

    def correct(self, answer: str, problem: Problem) -> bool | None:
        """Whether the answer is right; None where that cannot be told: without a reference, or in reasonable time."""
        ...

    @property
    def checkable(self) -> bool:
        """True if `correct` needs no reference: a user has such a checker too, so it is no oracle."""
        ...
