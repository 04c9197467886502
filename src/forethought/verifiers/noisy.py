"""A verifier with known error rates, for studies."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import require
from forethought.core.scope import Call, Seeded
from forethought.tasks.protocol import Task
from forethought.verifiers.around import Around, written_steps
from forethought.verifiers.protocol import verifiers


@verifiers.register("noisy")
@dataclass(frozen=True)
class Noisy(Around):
    """The verifier `of` with given error rates, for studies of imperfect verifiers (Stroebl et al. 2024, arXiv:2411.17501).

    An error turns a grade g into 1 - g. `false_positive` is its chance where g is below 1/2 (a wrong answer is accepted),
    `false_negative` where it is not. A process verifier errs at each step by itself, once: a step keeps its grade while the
    draft goes on. Errors are drawn `per` sample (every draft anew, by its place) or per answer (equal answers to a problem,
    and equal beginnings, always get the same grade).
    """

    name = "noisy"
    false_positive: float = 0.1
    false_negative: float = 0.1
    per: Literal["sample", "answer"] = "sample"
    of: str = "exact"

    def __post_init__(self) -> None:
        for rate in (self.false_positive, self.false_negative):
            require(0 <= rate <= 1, f"noisy: an error rate must lie between 0 and 1, not {rate}")
        verifiers.parse(self.of)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        grade, cost = await self.asked(draft, problem, task, call)
        if grade.value is None:
            return grade, cost
        written = written_steps(draft, task)
        steps = [self._erring(g, i, "\n".join(written[: i + 1]), problem, call) for i, g in enumerate(grade.steps)]
        text = (task.answer(draft.text, problem) or "") if draft.finished else "\n".join(written)
        value = self._erring(grade.value, len(written) - 1, text, problem, call)
        return self.changed(draft, grade, value, steps), cost

    def _erring(self, grade: float, step: int, text: str, problem: Problem, call: Call) -> float:
        """The grade of a step, or the opposite."""
        if self.per == "sample":
            uniform = Seeded(call.seed).seed((step,)) / 2.0**63
        else:
            digest = blake2b(f"{problem.text}\0{text}".encode(), digest_size=8).digest()
            uniform = int.from_bytes(digest, "little") / 2.0**64
        return 1 - grade if uniform < (self.false_positive if grade < 0.5 else self.false_negative) else grade
