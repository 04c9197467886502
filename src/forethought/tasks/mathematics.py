"""Problems of mathematics in words: answers are equal if they mean the same."""

from __future__ import annotations

from forethought.core.problem import Message, Problem
from forethought.sandbox.equality import equal_sync, workers
from forethought.tasks.text import stated

ASKED = "{text}\n\nReason step by step, and put the final answer into \\boxed{{}}."


class Math:
    r"""A problem of mathematics. Votes merge answers that are mathematically equal: `\frac{1}{2}` and `0.5` are one.

    The answer is the last `\boxed{}`, else the last line `answer: ...`; a draft without either cannot be read. Equality is
    math-verify's, in worker processes; a pair that it cannot settle in time is two answers, and stays so in a resumed run.
    An answer that it cannot settle against the reference is neither right nor wrong.
    """

    name = "math"
    step_break = "\n\n"
    step_tokens = 128
    draft_tokens = 512
    max_steps = 40
    checkable = False

    def load(self) -> None:
        """Raises UsageError where math-verify is not installed."""
        workers()

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": ASKED.format(text=problem.text)},)

    def answer(self, text: str, problem: Problem) -> str | None:
        return (stated(text) or "").lstrip(" *`_").rstrip(" .*`_") or None

    def same(self, one: str, other: str, problem: Problem) -> bool:
        return bool(equal_sync(one, other))

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None if problem.reference is None else equal_sync(str(problem.reference), answer)
