"""A world for step searches: four lines a draft, three ways at each, grades that depend on the text alone."""

from __future__ import annotations

import math
import random
from hashlib import blake2b

import anyio.lowlevel

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.errors import BudgetEnded, ModelError
from forethought.core.population import Population
from forethought.core.problem import Message, Problem
from forethought.core.scope import Call, Failures, Run, Scope, Seeded
from forethought.core.trace import Trace
from forethought.methods import By, methods
from forethought.models.protocol import Ability, Completion, Request
from forethought.tasks.protocol import Task

PROBLEM = Problem("climb")
LINES = 4
CHANCES = (0.5, 0.3, 0.2)


class LadderTask:
    name, step_break, step_tokens, draft_tokens, max_steps, checkable = "ladder", "\n", 4, 32, 6, True

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        return text

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return grade(answer) > 0.7


def grade(text: str) -> float:
    """Mostly the share of c, the rarest letter; the rest is a hash, so that all texts differ."""
    return 0.7 * text.count("c") / LINES + 0.3 * blake2b(text.encode(), digest_size=2).digest()[0] / 255


class Ladder:
    """Writes lines of one letter, two tokens each, decided by the call's seed. Passes the loop at random."""

    name = "ladder"
    abilities: frozenset[Ability] = frozenset({"extend", "continue", "logprobs", "seed", "ordered"})

    def __init__(self, noise: int = 0, failing: int = 0) -> None:
        self.noise, self.failing, self.spent = random.Random(noise), failing, Cost()

    def bound(self, request: Request) -> Cost:
        most = request.max_tokens
        return Cost(calls=1, prompt_tokens=1, new_tokens=most, critical_tokens=most)

    async def extend(self, request: Request, call: Call) -> Completion:
        for _ in range(self.noise.randrange(4)):
            await anyio.lowlevel.checkpoint()
        tokens, logprobs, finish = self._tokens(request, call.seed)
        cost = Cost(calls=1, prompt_tokens=1, new_tokens=len(tokens), critical_tokens=len(tokens))
        self.spent += cost
        if self.failing and call.seed % self.failing == 0:
            call.progress(cost)
            raise ModelError("the ladder is broken")
        return Completion("".join(tokens), finish, cost, logprobs=logprobs if request.logprobs is not None else ())

    def _tokens(self, request: Request, seed: int) -> tuple[list[str], tuple[float, ...], str]:  # type: ignore[return]
        chance, tokens, logprobs = random.Random(seed), [], []
        text = request.draft.text
        while len(tokens) < request.max_tokens:
            if len(text) % 2:
                token, p = "\n", 1.0
            else:
                letter = 0 if request.temperature == 0 else chance.choices(range(3), CHANCES)[0]
                token, p = "abc"[letter], CHANCES[letter]
            text += token
            tokens.append(token)
            logprobs.append(math.log(p))
            if text.count("\n") == LINES:
                return tokens, tuple(logprobs), "end"
            if request.stop and token == "\n":
                return tokens, tuple(logprobs), "stop"
        return tokens, tuple(logprobs), "length"


class Grader:
    """Grades any text; counts."""

    name, process = "grader", True

    def __init__(self, noise: int = 0) -> None:
        self.noise, self.spent = random.Random(noise), Cost()

    def __str__(self) -> str:
        return self.name

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=1)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        for _ in range(self.noise.randrange(4)):
            await anyio.lowlevel.checkpoint()
        self.spent += Cost(verifier_calls=1, verifier_tokens=1)
        return Grade(grade(draft.text)), Cost(verifier_calls=1, verifier_tokens=1)


async def climb(
    spelling: str,
    seed: int = 0,
    budget: Budget | None = None,
    trace: Trace | None = None,
    noise: int = 0,
    failing: int = 0,
    failures: Failures = "fail",
) -> tuple[Population[Draft], Scope, By]:
    """Run a method in this world; where the budget ends it, what it kept."""
    by = By(Ladder(noise, failing), LadderTask(), Grader(noise))
    run = Run(Seeded(seed), failures=failures) if trace is None else Run(Seeded(seed), trace, failures=failures)
    at = Scope.root(run, budget)
    try:
        pop = await methods.parse(spelling)(PROBLEM, by, at)
    except BudgetEnded:
        pop = at.kept or []
    return pop, at, by
