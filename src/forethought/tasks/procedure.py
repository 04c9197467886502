"""Explicit procedures on strings, in the manner of ProcBench (Fujisawa et al. 2024): follow every line to the letter."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from forethought.core.problem import Message, Problem
from forethought.tasks.generated import Split, check_difficulty, draw

ALPHABET = "abcdefghij"
SHORTEST, LONGEST = 3, 12  # letters of a string
PROMPT = re.compile(r"procedure [a-j]{3,12}\n(\d+\) \w+\n)+")
LINE = re.compile(r"\d+\) (\w+)\n")
ANSWER = re.compile(r"answer: ([a-j]+)\s*\Z")

# Each works on the list of letters as it stands after the line before.
OPERATIONS: dict[str, Callable[[str], str]] = {
    "swap": lambda s: s[-1] + s[1:-1] + s[0],  # the first and the last letter change places
    "rotate": lambda s: s[1:] + s[0],  # the first letter goes to the end
    "reverse": lambda s: s[::-1],
    "sort": lambda s: "".join(sorted(s)),
    "next": lambda s: ALPHABET[(ALPHABET.index(s[0]) + 1) % len(ALPHABET)] + s[1:],  # of the first letter; a after j
    "drop": lambda s: s[:-1],  # the last letter goes
    "copy": lambda s: s + s[0],  # the first letter is appended
}


def changed(state: str, rng: random.Random) -> str:
    """The state with two letters exchanged, or with another letter where that changes nothing."""
    i, j = sorted(rng.sample(range(len(state)), 2))
    letter = state[j] if state[i] != state[j] else rng.choice(ALPHABET.replace(state[i], ""))
    return state[:i] + letter + state[i + 1 : j] + state[i] + state[j + 1 :]


class Procedure:
    """Apply numbered operations to a string of letters. Difficulty is the number of operations; strings grow with it."""

    name = "procedure"
    step_break = "\n"
    step_tokens = 16
    max_steps = 24
    draft_tokens = 360
    checkable = False
    difficulties: Sequence[int] = range(1, 23)
    middle = 14

    def problem(self, difficulty: int, index: int, split: Split = "test") -> Problem:
        check_difficulty(self.name, difficulty, self.difficulties)
        place = f"{self.name}/{difficulty}/{split}/{index}"
        return draw(lambda rng: self._make(rng, difficulty, place), lambda p: p.text, place, split)

    def _make(self, rng: random.Random, length: int, name: str) -> Problem:
        size = min(SHORTEST + length // 2, LONGEST)
        state = first = "".join(rng.choice(ALPHABET) for _ in range(size))
        lines = []
        for number in range(1, length + 1):
            shrink, grow = ["drop"] * (len(state) > SHORTEST), ["copy"] * (len(state) < LONGEST)
            word = rng.choice(["swap", "rotate", "reverse", "sort", "next", "next", *shrink, *grow])
            state = OPERATIONS[word](state)
            lines.append(f"{number}) {word}\n")
        return Problem(f"procedure {first}\n{''.join(lines)}", state, name, length)

    def reads(self, text: str) -> bool:
        return PROMPT.fullmatch(text) is not None and set(LINE.findall(text)) <= set(OPERATIONS)

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        found = ANSWER.search(text)
        return found[1] if found else None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None if problem.reference is None else answer == problem.reference

    def solution(self, problem: Problem) -> str:
        return self.attempt(problem, random.Random(0), 0.0)

    def attempt(self, problem: Problem, rng: random.Random, slip: float) -> str:
        state = problem.text.split("\n", 1)[0].removeprefix("procedure ")
        lines = []
        for number, word in enumerate(LINE.findall(problem.text), 1):
            state = OPERATIONS[word](state)
            if rng.random() < slip:
                state = changed(state, rng)
            lines.append(f"{number}) {word} {state}\n")
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
