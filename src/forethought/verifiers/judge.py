"""A model as a judge: of one draft, or of two against each other."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.registry import at_least, require
from forethought.core.scope import Call
from forethought.models.protocol import Completion, Model, Request
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import Asks, ask, chance, line_after, model_of, most, ready, said, written
from forethought.verifiers.protocol import verifiers
from forethought.verifiers.self_eval import ALTERNATIVES

Form = Literal["verdict", "score"]
TASKS: dict[str, str] = {
    "verdict": "Check the solution step by step. End with a line by itself: `verdict: yes` if it is right, `verdict: no` if "
    "it is wrong.",
    "score": "First write down the principles by which a solution of this problem should be judged, then criticise the "
    "solution by each. End with a line by itself: `score: N`, N a whole number from 1 (useless) to 10 (perfect).",
    "better": "Compare the two solutions step by step. End with a line by itself: `better: first` or `better: second`.",
}
CHOICES: dict[str, list[str]] = {
    "verdict": ["yes", "no"],
    "score": [str(n) for n in range(1, 11)],
    "better": ["first", "second"],
}
META = "A critic wrote about a solution of a problem:\n\n{problem}\n\nSolution:\n{text}\n\nCritique:\n{critique}\n\n"
META += "Is this critique itself sound? Answer with one word, yes or no."


@verifiers.register("judge")
@dataclass(frozen=True)
class Judge(Asks):
    """A generative judge: `votes` critiques a draft, each ending in a readable mark; the grade is the marks' mean.

    `form=verdict` is GenRM-CoT: the share of critiques that end in yes (Zhang et al. 2024, arXiv:2408.15240). `form=score`
    is SPCT: principles, critique, a whole number from 1 to 10, put on [0, 1] (Liu et al. 2025, arXiv:2504.02495; the mean
    orders drafts as the published sum does where all marks can be read). `keep`: only that many votes count, those that
    a meta-vote (the probability that the model calls the critique sound) likes best. How much to solve and how much to
    verify (Singhi et al. 2025, arXiv:2504.01005) is `votes` against the method's `n`; one budget pays for both.
    A mark that cannot be read does not vote, and a draft without any is unknown. A model that follows schemas answers in
    JSON. `compare` sets two drafts against each other. The wordings are ours.
    """

    name = "judge"
    process = False
    votes: int = 1
    form: Form = "verdict"
    keep: int | None = None
    temperature: float = 1.0
    tokens: int = 512

    def __post_init__(self) -> None:
        at_least(self, votes=1, tokens=1, temperature=0)
        kept = self.keep is None or 1 <= self.keep <= self.votes
        require(kept, f"judge: keep must lie between 1 and votes={self.votes}, not {self.keep}")
        if self.keep is not None:
            object.__setattr__(self, "needs", frozenset({"logprobs"}))

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        model = model_of(self)
        need = most(model, [self._request(self._about(problem, draft), self.form, model)]).times(self.votes)
        if self.keep is not None:
            need += most(model, [self._doubt(problem, draft, " word" * self.tokens)]).times(self.votes)
        return need

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        model = await ready(self)
        request = self._request(self._about(problem, draft), self.form, model)
        critiques, cost = await ask(model, [request] * self.votes, call)
        marks = [(mark(critique, self.form), critique) for critique in critiques]
        readable = [(float(value), critique) for value, critique in marks if value is not None]
        if self.keep is not None and readable:
            doubts = [self._doubt(problem, draft, critique.text) for _, critique in readable]
            answers, cost = await ask(model, doubts, Call(call.place, call.seed ^ 1), cost)
            readable = best(readable, answers, self.keep)
        return Grade(mean([value for value, _ in readable])), cost

    def compare_bound(self, first: Draft, second: Draft, problem: Problem, task: Task) -> Cost:
        """The most that `compare` can cost."""
        model = model_of(self)
        both = [(first, second), (second, first)]
        requests = [self._request(self._against(problem, *pair), "better", model) for pair in both]
        return most(model, [max(requests, key=lambda r: most(model, [r]).verifier_tokens)]).times(self.votes)

    async def compare(
        self, first: Draft, second: Draft, problem: Problem, task: Task, call: Call
    ) -> tuple[float | None, Cost]:
        """The share of votes for the first draft, None if none can be read, and the bill.

        Half of the votes see the drafts in either order, with an odd number the seed says which order has one more.
        """
        model = await ready(self)
        swapped = [(i + call.seed) % 2 == 1 for i in range(self.votes)]
        pairs = [(second, first) if swap else (first, second) for swap in swapped]
        requests = [self._request(self._against(problem, *pair), "better", model) for pair in pairs]
        answers, cost = await ask(model, requests, call)
        votes = [mark(answer, "better") for answer in answers]
        return mean([v if not swap else 1 - v for v, swap in zip(votes, swapped, strict=True) if v is not None]), cost

    def _about(self, problem: Problem, draft: Draft) -> str:
        return f"Problem:\n{problem.text}\n\nSolution:\n{written(draft)}"

    def _against(self, problem: Problem, first: Draft, second: Draft) -> str:
        solutions = f"First solution:\n{written(first)}\n\nSecond solution:\n{written(second)}"
        return f"Problem:\n{problem.text}\n\n{solutions}"

    def _request(self, about: str, form: str, model: Model) -> Request:
        messages = said(f"{about}\n\n{TASKS[form]}")
        schema = schema_of(form) if "schema" in model.abilities else None
        return Request(messages, max_tokens=self.tokens, temperature=self.temperature, schema=schema)

    def _doubt(self, problem: Problem, draft: Draft, critique: str) -> Request:
        text = META.format(problem=problem.text, text=written(draft), critique=critique)
        return Request(said(text), max_tokens=1, logprobs=ALTERNATIVES)


def mark(answer: Completion, form: str) -> float | None:
    """What a critique ends in, on [0, 1]; None if it cannot be read. A critique that was cut short says nothing."""
    if answer.finish == "length":
        return None
    word = in_json(answer.text, form) if answer.text.lstrip().startswith("{") else line_after(form, answer.text)
    word = (word or "").lower().removesuffix("/10").strip()
    if word not in CHOICES[form]:
        return None
    place = CHOICES[form].index(word)
    return place / 9 if form == "score" else 1.0 - place


def in_json(text: str, form: str) -> str | None:
    try:
        told = json.loads(text)
    except ValueError:
        return None
    return str(told[form]) if isinstance(told, dict) and form in told else None


def schema_of(form: str) -> str:
    """A critique and a mark, in this order: the reasons come first."""
    properties = {"critique": {"type": "string"}, form: {"type": "string", "enum": CHOICES[form]}}
    made = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return json.dumps(made)


def best(votes: list[tuple[float, Completion]], answers: list[Completion], keep: int) -> list[tuple[float, Completion]]:
    """The votes whose critiques are most likely sound; ties to the earlier; one nobody can tell about comes last."""
    sound = [chance(answer.top[0], "yes", "no") if answer.top else None for answer in answers]
    order = sorted(range(len(votes)), key=lambda i: -1.0 if (p := sound[i]) is None else p, reverse=True)
    return [votes[i] for i in sorted(order[:keep])]


def mean(values: list[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
