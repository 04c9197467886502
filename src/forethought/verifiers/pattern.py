"""A constraint on the text as a verifier."""

from __future__ import annotations

import re
from dataclasses import dataclass

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.tasks.protocol import Task
from forethought.verifiers.protocol import verifiers

ONE_CALL = Cost(verifier_calls=1)


@verifiers.register("pattern")
@dataclass(frozen=True)
class Pattern:
    """1 while the draft keeps a constraint on its text, 0 from where it breaks it; costs no tokens.

    `avoid` is a regular expression that must be found nowhere, `contain` one that a finished draft must have; empty: none.
    With the method `steer(of=log)` what breaks the constraint ends.
    """

    name = "pattern"
    process = True
    avoid: str = ""
    contain: str = ""

    def __post_init__(self) -> None:
        for expression in (self.avoid, self.contain):
            try:
                re.compile(expression)
            except re.error as error:
                raise UsageError(f"pattern: cannot read {expression!r}: {error}") from None

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        text = draft.text
        broken = bool(self.avoid) and re.search(self.avoid, text) is not None
        missing = draft.finish is not None and re.search(self.contain, text) is None
        return Grade(float(not (broken or missing))), ONE_CALL
