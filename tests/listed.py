"""A model that says given words in a given order: what a method makes of known samples."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.population import Population
from forethought.core.problem import Message, Problem
from forethought.core.scope import Call, Run, Scope
from forethought.methods import By, methods
from forethought.models.protocol import Ability, Completion, Request
from forethought.selection.votes import Votes, polled
from forethought.tasks.protocol import Task

ASKED = Problem("say a word")


class Words:
    """Every draft is one word; `?` cannot be read. A word takes as many tokens as it has letters."""

    name, step_break, step_tokens, draft_tokens, max_steps, checkable = "words", "\n", 4, 8, 3, False

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        return None if "?" in text else text

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None


class Listed:
    """Draft number i of a method's population is word number i; remembers what it was asked for each."""

    name = "listed"
    abilities: frozenset[Ability] = frozenset({"extend", "continue", "seed", "ordered"})

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.asked: dict[int, Request] = {}

    def bound(self, request: Request) -> Cost:
        return Cost(calls=1, new_tokens=request.max_tokens, critical_tokens=request.max_tokens)

    async def extend(self, request: Request, call: Call) -> Completion:
        await anyio.lowlevel.checkpoint()
        number = call.place[-2]
        assert number not in self.asked, "a draft was drawn twice"
        self.asked[number] = request
        word = self.words[number]
        return Completion(word, "end", Cost(calls=1, new_tokens=len(word), critical_tokens=len(word)))


class Cases(Words):
    """Words that are the same in whatever case they are written."""

    def same(self, one: str, other: str, problem: Problem) -> bool:
        return one.lower() == other.lower()


def poll(pop: Population[Draft], problem: Problem, by: By) -> Votes:
    """The ballots of a population that was made elsewhere."""
    return anyio.run(polled, pop, problem, by, Scope.root())


async def said(spelling: str, words: Sequence[str], task: Task | None = None) -> list[str]:
    """The population that a method makes of these words."""
    pop = await methods.parse(spelling)(ASKED, By(Listed(words), task or Words()), Scope.root(Run()))
    return [p.state.text for p in pop]
