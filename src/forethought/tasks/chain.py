"""Chains of arithmetic modulo 100: easy steps, many of them; wrong answers scatter, so votes help."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from forethought.core.problem import Message, Problem
from forethought.tasks.generated import Split, check_difficulty, draw

MODULUS = 100
EASY = 8  # up to this difficulty every operand is a single digit
OPERATION = re.compile(r"(\d+)\) ([-+*])(\d+)")
PROMPT = r" \d{1,2}\n(\d+\) [-+*]\d{1,2}\n)+"  # after the task's name
ANSWER = re.compile(r"answer: (\d{1,9})\s*\Z")


def apply(value: int, sign: str, operand: int) -> int:
    result = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
    return result % MODULUS


def drawn(rng: random.Random, task: str, length: int, place: str) -> Problem:
    """A problem of this many operations, whose text begins with the task's name."""
    value = first = rng.randrange(MODULUS)
    hard = max(0, length - EASY) / 20
    lines = []
    for number in range(1, length + 1):
        sign = rng.choice("+-*")
        operand = rng.randrange(10, MODULUS) if rng.random() < hard else rng.randrange(2, 10)
        value = apply(value, sign, operand)
        lines.append(f"{number}) {sign}{operand}\n")
    return Problem(f"{task} {first}\n{''.join(lines)}", str(value), place, length)


def asked(problem: Problem) -> str:
    """The first number and the operations: a chain is the same problem whether its solution checks itself or not."""
    return problem.text.split(" ", 1)[1]


def operations(problem: Problem) -> tuple[int, list[tuple[str, int]]]:
    """The first number, and the sign and operand of each operation."""
    first = int(problem.text.split("\n", 1)[0].split(" ")[1])
    return first, [(sign, int(operand)) for _, sign, operand in OPERATION.findall(problem.text)]


def slipped(result: int, rng: random.Random) -> int:
    """A wrong result, near the right one more often than not."""
    return (result + rng.choice([1, -1, 10, -10, rng.randrange(1, MODULUS)])) % MODULUS


class Chain:
    """Apply numbered operations to a number, modulo 100. Difficulty is the number of operations.

    Operands have one digit up to difficulty 8; beyond, a growing share has two, up to three fifths at difficulty 20.
    One operation a line, and a solution that repeats the line's number: the next operation is found by a local copy,
    so errors come from the arithmetic and difficulty from the length.
    """

    name = "chain"
    step_break = "\n"
    step_tokens = 16
    max_steps = 22
    draft_tokens = 260
    checkable = False
    difficulties: Sequence[int] = range(1, 21)
    middle = 10

    def problem(self, difficulty: int, index: int, split: Split = "test") -> Problem:
        check_difficulty(self.name, difficulty, self.difficulties)
        place = f"{self.name}/{difficulty}/{split}/{index}"
        return draw(lambda rng: drawn(rng, self.name, difficulty, place), asked, place, split)

    def reads(self, text: str) -> bool:
        return re.fullmatch(self.name + PROMPT, text) is not None

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def answer(self, text: str, problem: Problem) -> str | None:
        found = ANSWER.search(text)
        return str(int(found[1])) if found else None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        return None if problem.reference is None else answer == problem.reference

    def solution(self, problem: Problem) -> str:
        return self.attempt(problem, random.Random(0), 0.0)

    def attempt(self, problem: Problem, rng: random.Random, slip: float) -> str:
        value, todo = operations(problem)
        lines = []
        for number, (sign, operand) in enumerate(todo, 1):
            result = apply(value, sign, operand)
            if rng.random() < slip:
                result = slipped(result, rng)
            lines.append(f"{number}) {value}{sign}{operand}={result}\n")
            value = result
        return "".join(lines) + f"answer: {value}"

    def right_so_far(self, text: str, problem: Problem) -> list[bool]:
        truth = self.solution(problem).splitlines(keepends=True)
        steps = text.splitlines(keepends=True)
        return [steps[: i + 1] == truth[: i + 1] for i in range(len(steps))]
