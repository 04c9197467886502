"""Causal process reward models: the probability of one token after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forethought.core.cost import Cost
from forethought.core.draft import UNKNOWN, Draft, Grade
from forethought.core.problem import Message, Problem
from forethought.core.scope import Call
from forethought.models.protocol import Ability, Request
from forethought.tasks.protocol import Task
from forethought.verifiers.asking import Asks, ask, chance, model_of, most, one_text, ready, written
from forethought.verifiers.endpoint import steps_of
from forethought.verifiers.protocol import nearest, verifiers
from forethought.verifiers.self_eval import ALTERNATIVES


@verifiers.register("reward-token")
@dataclass(frozen=True)
class RewardToken(Asks):
    """A causal reward model in the form of RLHFlow's: each step is a turn, and the next token is `good` or `bad`.

    The first turn is the problem and the first step; earlier steps stand as answered with `good`. One token with its
    log-probabilities a step, so that the server keeps its prefix cache. Incremental: only steps behind the nearest graded
    beginning are asked about, and of those only the last unless `every`, for which a budget has to hold `max_steps` calls.
    A draft of which steps were left out has its last step's grade alone: their least, mean or product needs `every`.
    A step that was graded half-way is asked about again. Unknown if neither token is among the 20 likeliest.
    """

    name = "reward-token"
    process = True
    needs: ClassVar[frozenset[Ability]] = frozenset({"logprobs"})
    good: str = "+"
    bad: str = "-"
    every: bool = False

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        model, text = model_of(self), written(draft)
        if draft.text or not self.every:
            return most(model, self._requests(text, problem, task, len(self._known(draft, task))))
        (longest,) = self._requests(text, problem, task, 0, last=True)
        return most(model, [longest]).times(max(1, min(task.max_steps, draft.size)))

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        model = await ready(self)
        known = self._known(draft, task)
        requests = self._requests(draft.text, problem, task, len(known))
        answers, cost = await ask(model, requests, call)
        found = [chance(answer.top[0], self.good, self.bad) if answer.top else None for answer in answers]
        steps = [value for value in found if value is not None]
        if len(steps) < len(found):
            return UNKNOWN, cost
        before = len(steps_of(draft.text, task)) - len(steps)
        return Grade(steps[-1], (*known[:before], *steps) if len(known) >= before else ()), cost

    def _requests(self, text: str, problem: Problem, task: Task, known: int, last: bool = False) -> list[Request]:
        """The questions about the steps from number `known` on; at least the last."""
        steps = steps_of(text, task)
        first = len(steps) - 1 if last or not self.every else min(known, len(steps) - 1)
        asked = one_text(task.prompt(problem))
        return [self._request(asked, steps[: i + 1]) for i in range(first, len(steps))]

    def _request(self, asked: str, steps: list[str]) -> Request:
        messages: list[Message] = []
        for i, step in enumerate(steps):
            messages += [{"role": "assistant", "content": self.good}] if i else []
            messages.append({"role": "user", "content": step if i else f"{asked} {step}"})
        return Request(tuple(messages), max_tokens=1, logprobs=ALTERNATIVES)

    def _known(self, draft: Draft, task: Task) -> tuple[float, ...]:
        """The grades of the whole steps of the nearest graded beginning."""
        graded = nearest(draft, str(self))
        if graded is None:
            return ()
        whole = len(steps_of(graded.text, task)) - (not graded.text.endswith(task.step_break))
        return graded.grades[str(self)].steps[:whole]
