"""Agreement: a reasoning in words and the same reasoning as a program must come to one answer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from forethought.core.cost import ZERO, Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Call
from forethought.models.protocol import Loads, Request, weights_in
from forethought.sandbox import Kind, Limits, Program, bubblewrap, run
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import Asks, ask, given, look, model_of, most, ready, said, written
from forethought.verifiers.programs import printed, program_of, same
from forethought.verifiers.protocol import Verifier, verifiers

TRANSLATE = """{problem}

A solution in words:
{text}

Translate this solution into a Python program that follows the same reasoning step by step, computes the answer from the
numbers of the problem, and prints the final answer alone. Write the program in one ```python block."""


@verifiers.register("agreement")
@dataclass(frozen=True)
class Agreement(Asks):
    """Math-Rev's filter: the model translates the draft into a program; the grade is high where both answers agree.

    Agreeing drafts get 1, or what `scorer`, another verifier, gives them. Others get `floor` times that: so little that
    any agreeing draft outvotes them, and all alike if none agrees, in which case the published method uses all of them.
    Unknown for unfinished drafts, and where the translation was cut short or no program came to an answer. (Liang et al.
    2024, arXiv:2410.05318; wording and floor are ours.) Programs run in the sandbox of `code`.
    """

    name = "agreement"
    process = False
    scorer: str | None = None
    floor: float = 1e-6
    temperature: float = 0.0
    tokens: int = 512
    sandbox: Kind = "bubblewrap"
    seconds: float = 5.0

    def __post_init__(self) -> None:
        at_least(self, tokens=1)
        require(0 <= self.floor <= 1, f"agreement: floor must lie between 0 and 1, not {self.floor}")
        require(self.seconds > 0, f"agreement: seconds must be above 0, not {self.seconds}")
        self._scorer()

    @property
    def weights(self) -> str:
        """Those of the model it names and of its scorer. Raises UsageError if they cannot be read."""
        return super().weights + weights_in(self._scorer())

    async def prepare(self) -> None:
        await super().prepare()
        await look(self._scorer())

    def load(self) -> None:
        """Raises UsageError where there is no sandbox."""
        if self.sandbox == "bubblewrap":
            bubblewrap.check()
        scorer = self._scorer()
        if isinstance(scorer, Loads):
            scorer.load()

    def oracle(self, task: Task) -> bool:
        scorer = self._scorer()
        return scorer is not None and scorer.oracle(task)

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        scorer = self._scorer()
        score = scorer.bound(draft, problem, task) if scorer else ZERO
        return most(model_of(self), [self._request(draft, problem)]) + score

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        answer = task.answer(draft.text, problem) if draft.finished else None
        if answer is None:
            return UNKNOWN, ZERO
        (translation,), cost = await ask(await ready(self), [self._request(draft, problem)], call)
        whole = translation.finish != "length"
        computed = await self._computed(program_of(translation.text) if whole else None)
        if computed is None:
            return UNKNOWN, cost
        factor = 1.0 if same(answer, computed) else self.floor
        scorer = self._scorer()
        if scorer is None:
            return Grade(factor), cost
        inner = Call(call.place, call.seed ^ 1)
        try:
            grade, score = await scorer.grade(draft, problem, task, inner)
        finally:
            call.progress(cost + (inner.so_far or ZERO))
        return replace(grade, value=None if grade.value is None else factor * grade.value), cost + score

    async def _computed(self, program: str | None) -> str | None:
        if program is None:
            return None
        limits = Limits(wall=2 * self.seconds, cpu=max(1, round(self.seconds)))
        return printed(await run(Program((program,)), limits, self.sandbox))

    def _request(self, draft: Draft, problem: Problem) -> Request:
        text = TRANSLATE.format(problem=problem.text, text=written(draft))
        return Request(said(text), max_tokens=self.tokens, temperature=self.temperature)

    def _scorer(self) -> Verifier | None:
        if self.scorer is None:
            return None
        scorer = verifiers.parse(self.scorer)
        return scorer if self.own is None else given(scorer, self.own)
