"""A toy world that can be enumerated: three tokens, at most three deep, and a table for a verifier."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import anyio.lowlevel
import numpy as np
from numpy.typing import NDArray

from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.population import Population
from forethought.core.problem import Message, Problem
from forethought.core.scope import Call, Run, Scope, Source
from forethought.core.trace import Path
from forethought.methods import By
from forethought.models.protocol import Ability, Completion, Request
from forethought.tasks.protocol import Task

NEXT = {"a": 0.5, "b": 0.3, ".": 0.2}  # "." ends a text; the third token is always "."
PROBLEM = Problem("toy")
Choices = dict[Path, tuple[int, Sequence[float]]]


class Enumerated:
    """Answers scripted choices from the script and every new one with its first possible outcome."""

    def __init__(self, script: Choices) -> None:
        self.script, self.fresh = script, Choices()
        self.used: set[Path] = set()

    def choose(self, place: Path, probs: Sequence[float]) -> int:
        assert place not in self.used, f"two choices at one place: {place}"
        self.used.add(place)
        if place not in self.script:
            total = math.fsum(probs)
            self.fresh[place] = (next(i for i, q in enumerate(probs) if q > 0), [q / total for q in probs])
        return (self.script.get(place) or self.fresh[place])[0]

    def choose_many(self, place: Path, probs: Sequence[float], n: int) -> NDArray[np.intp]:
        return np.array([self.choose((*place, k), probs) for k in range(n)])

    def seed(self, place: Path) -> int:
        return 0


class ToyTask:
    name, step_break, step_tokens, draft_tokens, max_steps, checkable = "toy", "", 1, 3, 3, True

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        return text

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return answer == "ab."


class ToyModel:
    """Draws its tokens from `NEXT` by the given source of choices, one choice a token; counts what it does.

    After `deepest` tokens the next is ".".
    """

    name = "toy"
    abilities: frozenset[Ability] = frozenset({"extend", "continue", "logprobs", "seed", "ordered"})

    def __init__(self, source: Source, deepest: int = 2) -> None:
        self.source, self.deepest, self.spent = source, deepest, Cost()

    def bound(self, request: Request) -> Cost:
        return Cost(calls=1, prompt_tokens=1, new_tokens=request.max_tokens, critical_tokens=request.max_tokens)

    async def extend(self, request: Request, call: Call) -> Completion:
        await anyio.lowlevel.checkpoint()
        before, text = len(request.draft.text), ""
        while len(text) < request.max_tokens and not text.endswith("."):
            text += self._token(request, (*call.place, len(text)), before + len(text))
        cost = Cost(calls=1, prompt_tokens=1, new_tokens=len(text), critical_tokens=len(text))
        self.spent += cost
        laws = [law(before + i, self.deepest) for i in range(len(text))]
        logprobs = tuple(math.log(p[token]) for p, token in zip(laws, text, strict=True))
        top = tuple({t: math.log(q) for t, q in p.items()} for p in laws) if request.logprobs else ()
        return Completion(text, "end" if text.endswith(".") else "length", cost, (), logprobs, top)

    def _token(self, request: Request, place: Path, depth: int) -> str:
        if depth >= self.deepest:
            return "."
        if request.temperature == 0:
            return max(NEXT, key=lambda token: NEXT[token])
        return list(NEXT)[self.source.choose(place, list(NEXT.values()))]


def law(depth: int, deepest: int) -> dict[str, float]:
    """The probabilities of the next token behind so many."""
    return NEXT if depth < deepest else {".": 1.0}


def table(text: str) -> float:
    """The verifier's grade of a text: an asymmetric table, so that no slip cancels out."""
    odds = math.exp(sum({"a": -0.5, "b": 1.0, ".": 0.25}[token] * (i + 1) for i, token in enumerate(text)))
    return odds / (1 + odds)


class TableVerifier:
    name, process = "table", True

    def __str__(self) -> str:
        return self.name

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=1)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        await anyio.lowlevel.checkpoint()
        return Grade(table(draft.text)), Cost(verifier_calls=1, verifier_tokens=1)


def texts(deepest: int = 2) -> dict[str, float]:
    """Every text of the toy model with its probability."""
    words = ["".join(w) for n in range(deepest + 1) for w in itertools.product("ab", repeat=n)]
    return {w + ".": math.prod(NEXT[t] for t in w) * (NEXT["."] if len(w) < deepest else 1.0) for w in words}


def model_times_odds(temper: float = 1.0, deepest: int = 2) -> dict[str, float]:
    return {text: p * (table(text) / (1 - table(text))) ** (1 / temper) for text, p in texts(deepest).items()}


Program = Callable[[By, Scope], Awaitable[Population[Draft]]]
T = TypeVar("T")


async def outcomes(run: Callable[[Source], Awaitable[T]]) -> AsyncIterator[tuple[float, T]]:
    """All that `run` can return, with its probability: replay a causally closed prefix of choices, then advance the last."""
    script: Choices = {}
    while True:
        source = Enumerated(script)
        found = await run(source)
        assert source.used >= script.keys(), "a replayed choice vanished: the program depends on task order"
        made = script | source.fresh  # script first: task order may differ between runs
        yield math.prod(probs[i] for i, probs in made.values()), found
        while made:
            place, (i, probs) = made.popitem()
            later = next((j for j in range(i + 1, len(probs)) if probs[j] > 0), None)
            if later is not None:
                script = made | {place: (later, probs)}
                break
        else:
            return


def toy_by(source: Source, deepest: int = 2, task: Task | None = None) -> By:
    return By(ToyModel(source, deepest), task or ToyTask(), TableVerifier())


async def expected_measure(
    program: Program, budget: Budget | None = None, deepest: int = 2, task: Task | None = None
) -> dict[str, float]:
    """E[ sum_i w_i delta(text_i) ]."""
    total: dict[str, float] = defaultdict(float)
    run = lambda source: program(toy_by(source, deepest, task), Scope.root(Run(source=source), budget))  # noqa: E731
    async for weight, pop in outcomes(run):
        for p in pop:
            total[p.state.text] += weight * math.exp(p.logw)
    return dict(total)
