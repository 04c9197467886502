"""Deduction checked by a prover."""

from __future__ import annotations

from dataclasses import dataclass

from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Call
from forethought.models.protocol import Request
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import Asks, ask, model_of, most, ready, said
from forethought.verifiers.exact import ONE_CALL
from forethought.verifiers.protocol import verifiers
from forethought.verifiers.prover import Label, label, vote, workers

FORMALISE = """Write the premises of this problem, and the statement that is asked about, in first-order logic.
One formula a line: `premise: ...` for each premise, and a last line `conclusion: ...` for the statement. Use forall, exists,
not, and, or, xor, ->, <->, =.

For example, "Every cat is an animal. Tom is a cat. Is it true that Tom is an animal?" becomes
premise: forall x. Cat(x) -> Animal(x)
premise: Cat(tom)
conclusion: Animal(tom)

and "Nobody who sleeps snores. Either Ann or Bob snores. True or false: Ann sleeps." becomes
premise: forall x. Sleeps(x) -> not Snores(x)
premise: Snores(ann) xor Snores(bob)
conclusion: Sleeps(ann)

The problem:
{problem}"""
LABELS: dict[str, Label] = {
    **dict.fromkeys(("true", "yes", "entailed", "proved", "correct"), "true"),
    **dict.fromkeys(("false", "no", "contradicted", "disproved", "incorrect"), "false"),
    **dict.fromkeys(("uncertain", "unknown", "undetermined", "neither"), "uncertain"),
}


@verifiers.register("logic")
@dataclass(frozen=True)
class Logic(Asks):
    """A prover's word on a draft's answer (true, false or uncertain): 1 if it says the same, 0 if another.

    With `parses=0` the draft brings its own formalisation, in the language of `verifiers/logic_language.py`, and the prover
    checks whether that says what the draft answers. Otherwise the model writes `parses` formalisations of the problem, and
    the label that most of them come to counts: LINC (Olausson et al. 2023, arXiv:2310.15164), published with 10 parses at
    temperature 0.8 and 10 seconds a proof; what is not decided in time is uncertain. A parse that was cut short
    does not vote. Unknown where the answer cannot be read or no parse can be proved from. By z3, in worker processes.
    """

    name = "logic"
    process = False
    parses: int = 0
    temperature: float = 0.8
    tokens: int = 512
    seconds: float = 10.0

    def __post_init__(self) -> None:
        at_least(self, parses=0, tokens=1)
        require(self.seconds > 0, f"logic: seconds must be above 0, not {self.seconds}")

    async def prepare(self) -> None:
        """Raises UsageError where there has to be a model to ask, and is none."""
        if self.parses:
            await super().prepare()

    def load(self) -> None:
        """Raises UsageError where z3 is not installed."""
        workers()

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return most(model_of(self), [self._request(problem)]).times(self.parses) if self.parses else ONE_CALL

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        answer = task.answer(draft.text, problem) if draft.finished else None
        stated = LABELS.get((answer or "").strip(" .").casefold())
        texts, cost = [draft.text], ONE_CALL
        if stated is None:
            return UNKNOWN, ONE_CALL
        if self.parses:
            answers, cost = await ask(await ready(self), [self._request(problem)] * self.parses, call)
            texts = [found.text for found in answers if found.finish != "length"]
        proved = vote([await label(text, self.seconds) for text in texts])
        return (UNKNOWN if proved == "error" else Grade(float(proved == stated))), cost

    def _request(self, problem: Problem) -> Request:
        text = FORMALISE.format(problem=problem.text)
        return Request(said(text), max_tokens=self.tokens, temperature=self.temperature)
