"""Unit tests in a sandbox."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Call
from forethought.sandbox import Kind, Limits, Program, bubblewrap, run
from forethought.tasks.protocol import Task
from forethought.verifiers.exact import ONE_CALL
from forethought.verifiers.programs import program_of
from forethought.verifiers.protocol import verifiers


@verifiers.register("code")
@dataclass(frozen=True)
class Code:
    """Unit tests: 1 if the draft's program passes them all within the limits, 0 if not; unknown for unfinished drafts.

    The program is the last fenced block of the draft, or all of it. The tests are Python statements that run after it in
    its own module and raise where it is wrong: the file `tests`, which a user has too, or else the problem's reference,
    which makes it an oracle. Both run inside bubblewrap, without network, files, other processes or threads;
    `sandbox=plain` gives up the walls and keeps the limits, for machines that have no bubblewrap and programs that one
    trusts. A program without any answer in time has failed.

    What a pass means: the tests ran to their end and none raised. They share one process with the program, so a program
    that sets out to deceive its tests from inside (an object that equals everything, say) can; the walls protect the
    machine, not the grade.
    """

    name = "code"
    process = False
    tests: str | None = None
    sandbox: Kind = "bubblewrap"
    seconds: float = 10.0
    megabytes: int = 512

    def __post_init__(self) -> None:
        at_least(self, megabytes=64)
        require(self.seconds > 0, f"code: seconds must be above 0, not {self.seconds}")

    def oracle(self, task: Task) -> bool:
        return self.tests is None

    def load(self) -> None:
        """Raises UsageError where there is no sandbox, or the tests cannot be read."""
        if self.sandbox == "bubblewrap":
            bubblewrap.check()
        if self.tests:
            self._text  # noqa: B018 - it is read here

    @property
    def weights(self) -> str:
        """The file of tests by its content, empty without one. Raises UsageError if it cannot be read."""
        return hashlib.sha256(self._text.encode()).hexdigest()[:16] if self.tests else ""

    @functools.cached_property
    def _text(self) -> str:
        """The tests, read once a verifier: what a run is known by is what graded its drafts."""
        try:
            return Path(self.tests or "").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"code: cannot read the tests {self.tests}: {error}") from None

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        tests = self._text if self.tests else problem.reference
        if not draft.finished or tests is None:
            return UNKNOWN, ONE_CALL
        program = program_of(draft.text)
        if program is None:
            return Grade(0.0), ONE_CALL
        limits = Limits(wall=2 * self.seconds, cpu=max(1, round(self.seconds)), memory=self.megabytes << 20)
        outcome = await run(Program((program, str(tests)), name="solution"), limits, self.sandbox)
        return Grade(float(outcome.status == "ended")), ONE_CALL
