"""Self-evaluation: the probability of `yes` as the next token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.models.protocol import Ability, Request
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import Asks, ask, chance, grown, model_of, most, ready, said, written
from forethought.verifiers.protocol import verifiers

QUESTION = """{problem}

Proposed solution{sofar}:
{text}

Is this solution correct{sofar}? Answer with one word, {yes} or {no}."""
ALTERNATIVES = 20  # what servers tell at most


def question(problem: str, draft: Draft, yes: str, no: str) -> Request:
    """One token, with its alternatives. Temperature 1, so that no server reshapes what it tells of them."""
    sofar = "" if draft.finished else " so far"
    text = QUESTION.format(problem=problem, text=written(draft), sofar=sofar, yes=yes, no=no)
    return Request(said(text), max_tokens=1, logprobs=ALTERNATIVES)


@verifiers.register("self-eval")
@dataclass(frozen=True)
class SelfEval(Asks):
    """The probability that a model answers `yes`, and not `no`, when asked whether the solution (so far) is correct.

    Unknown if neither word is among the 20 likeliest tokens. It grades the draft as it stands; a draft graded at every
    step has a grade for each. Kadavath et al. 2022, arXiv:2207.05221, section 3, P(True); the wording is ours.
    """

    name = "self-eval"
    process = True
    needs: ClassVar[frozenset[Ability]] = frozenset({"logprobs"})
    yes: str = "yes"
    no: str = "no"

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return most(model_of(self), [question(problem.text, draft, self.yes, self.no)])

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        model = await ready(self)
        (answer,), cost = await ask(model, [question(problem.text, draft, self.yes, self.no)], call)
        value = chance(answer.top[0], self.yes, self.no) if answer.top else None
        return grown(draft, str(self), value), cost
