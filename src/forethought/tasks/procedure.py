"""Explicit procedures on strings and lists, in the manner of ProcBench (seeds row 19): follow every line to the letter."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from forethought.core.problem import Message, Problem
from forethought.tasks.generated import Split, check_difficulty, draw

LETTERS, DIGITS = "abcdefghij", "0123456789"
LINE = re.compile(r"\d+\) (\w+)((?: \d+)*)\n")
ANSWER = re.compile(r"answer: ([a-j]+|\d+)\s*\Z")


def swap(state: str, i: int, j: int) -> str:
    items = list(state)
    items[i - 1], items[j - 1] = items[j - 1], items[i - 1]
    return "".join(items)


def succ(state: str, i: int) -> str:
    alphabet = LETTERS if state[i - 1] in LETTERS else DIGITS
    after = alphabet[(alphabet.index(state[i - 1]) + 1) % len(alphabet)]
    return state[: i - 1] + after + state[i:]


OPERATIONS: dict[str, Callable[..., str]] = {
    "swap": swap,
    "next": succ,
    "reverse": lambda state: state[::-1],
    "rotate": lambda state, k: state[k:] + state[:k],
    "drop": lambda state, i: state[: i - 1] + state[i:],
    "copy": lambda state, i: state + state[i - 1],
    "sort": lambda state: "".join(sorted(state)),
}


class Procedure:
    """Apply numbered operations to a string of letters or a list of digits. Difficulty is the number of operations."""

    name = "procedure"
    step_break = "\n"
    step_tokens = 14
    max_steps = 22
    draft_tokens = 240
    checkable = False
    difficulties: Sequence[int] = range(1, 21)
    middle = 8

    def problem(self, difficulty: int, index: int, split: Split = "test") -> Problem:
        check_difficulty(self.name, difficulty, self.difficulties)
        place = f"{self.name}/{difficulty}/{split}/{index}"
        return draw(lambda rng: self._make(rng, difficulty, place), place, split)

    def _make(self, rng: random.Random, length: int, name: str) -> Problem:
        alphabet = rng.choice([LETTERS, DIGITS])
        state = first = "".join(rng.choice(alphabet) for _ in range(rng.randrange(4, 8)))
        lines = []
        for number in range(1, length + 1):
            word, numbers = self._operation(rng, len(state))
            state = OPERATIONS[word](state, *numbers)
            lines.append(f"{number}) {' '.join([word, *map(str, numbers)])}\n")
        return Problem(f"procedure {first}\n{''.join(lines)}", state, name, length)

    def _operation(self, rng: random.Random, size: int) -> tuple[str, list[int]]:
        shrink, grow = ["drop"] * (size > 4), ["copy"] * (size < 9)
        word = rng.choice(["swap", "swap", "next", "next", "reverse", "rotate", "sort", *shrink, *grow])
        if word == "swap":
            return word, sorted(rng.sample(range(1, size + 1), 2))
        if word == "rotate":
            return word, [rng.randrange(1, 4)]
        return word, [] if word in ("reverse", "sort") else [rng.randrange(1, size + 1)]

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        found = ANSWER.search(text)
        return found[1] if found else None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None if problem.reference is None else answer == problem.reference

    def solution(self, problem: Problem) -> str:
        state = problem.text.split("\n", 1)[0].removeprefix("procedure ")
        lines = []
        for number, (word, numbers) in enumerate(LINE.findall(problem.text), 1):
            state = OPERATIONS[word](state, *map(int, numbers.split()))
            lines.append(f"{number}) {state}\n")
        return "".join(lines) + f"answer: {state}"

    def right_so_far(self, text: str, problem: Problem) -> list[bool]:
        truth = self.solution(problem).splitlines(keepends=True)
        steps = text.splitlines(keepends=True)
        return [steps[: i + 1] == truth[: i + 1] for i in range(len(steps))]

    def prefix_match(self, text: str, problem: Problem) -> float:
        """The share of the procedure's states that are right before the first wrong one (ProcBench's prefix accuracy)."""
        truth = self.solution(problem).splitlines()[:-1]
        steps = text.splitlines()
        right = next((i for i, state in enumerate(truth) if steps[i : i + 1] != [state]), len(truth))
        return right / len(truth)
