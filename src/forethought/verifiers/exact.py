"""The task's own checker, and the same one with a known error rate."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Call
from forethought.tasks.protocol import Task
from forethought.verifiers.protocol import verifiers

ONE_CALL = Cost(verifier_calls=1)


def check(draft: Draft, problem: Problem, task: Task) -> tuple[str | None, bool | None]:
    """A finished draft's answer, and whether it is right. An unreadable answer is wrong, an unfinished draft unknown."""
    if not draft.finished:
        return None, None
    answer = task.answer(draft.text, problem)
    return answer, False if answer is None else task.correct(answer, problem)


@verifiers.register("exact")
@dataclass(frozen=True)
class Exact:
    """The task's checker: 1 if the answer is right, 0 if not, unknown for unfinished drafts.

    An oracle where the checker needs the reference; a verifier that a user has too where it does not (countdown).
    """

    name = "exact"
    process = False

    def oracle(self, task: Task) -> bool:
        return not task.checkable

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        _, right = check(draft, problem, task)
        return (UNKNOWN if right is None else Grade(float(right))), ONE_CALL


@verifiers.register("noisy")
@dataclass(frozen=True)
class Noisy:
    """The exact checker with given error rates, for studies of imperfect verifiers (Stroebl et al. 2024, arXiv:2411.17501).

    `false_positive` is the chance that a wrong answer is accepted, `false_negative` that a right one is refused, drawn
    `per` sample (every draft anew) or per answer (equal answers to a problem always get the same grade).
    """

    name = "noisy"
    process = False
    false_positive: float = 0.1
    false_negative: float = 0.1
    per: Literal["sample", "answer"] = "sample"

    def __post_init__(self) -> None:
        for rate in (self.false_positive, self.false_negative):
            require(0 <= rate <= 1, f"noisy: an error rate must lie between 0 and 1, not {rate}")

    def oracle(self, task: Task) -> bool:
        return not task.checkable

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        answer, right = check(draft, problem, task)
        if right is None:
            return UNKNOWN, ONE_CALL
        rate = self.false_negative if right else self.false_positive
        wrong = self._uniform(answer, problem, call) < rate
        return Grade(float(right != wrong)), ONE_CALL

    def _uniform(self, answer: str | None, problem: Problem, call: Call) -> float:
        if self.per == "sample":
            return call.seed / 2.0**63
        digest = blake2b(f"{problem.text}\0{answer}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2.0**64
