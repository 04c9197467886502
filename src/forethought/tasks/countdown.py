"""Countdown: reach a target from given numbers. Hard to find, easy to check without any reference."""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

from forethought.core.problem import Message, Problem
from forethought.tasks.generated import Split, check_difficulty, draw

LARGEST = 99
ANY = "+-*/"
MISCOUNTED = 0.2  # the share of wrong steps whose result is false
PROMPT = re.compile(r"countdown (\d{1,2}(?: \d{1,2})+) = (\d{1,2})\n")
STEP = re.compile(r"(?<!\d)(\d{1,3})([-+*/])(\d{1,3})=(\d{1,3}) \| (\d{1,3}(?: \d{1,3})*) ?\n?")
EXPRESSION = re.compile(r"[-+*/() 0-9]{1,1000}")
SIGNS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
# How many numbers, up to which, and the operations that lead from them to the target.
LEVELS = {1: (2, 49, "+-"), 2: (3, 9, ANY), 3: (3, 20, ANY), 4: (4, 9, ANY), 5: (4, 20, ANY), 6: (5, 20, ANY)}


def results(a: int, b: int) -> Iterator[tuple[str, int, int, int]]:
    """Every legal (sign, left, right, result) of two numbers: results are whole, positive and at most 99."""
    high, low = max(a, b), min(a, b)
    for sign, value in (("+", a + b), ("*", a * b), ("-", high - low)):
        if 0 < value <= LARGEST:
            yield sign, high, low, value
    if low and high % low == 0:
        yield "/", high, low, high // low


@lru_cache(maxsize=1 << 16)
def reachable(numbers: tuple[int, ...], target: int) -> bool:
    """Whether all the numbers can be combined into the target."""
    if len(numbers) == 1:
        return numbers[0] == target
    return any(
        reachable(tuple(sorted([*rest_of(numbers, i, j), value])), target)
        for i, j in combinations(range(len(numbers)), 2)
        for _, _, _, value in results(numbers[i], numbers[j])
    )


def rest_of(numbers: Sequence[int], i: int, j: int) -> list[int]:
    return [n for k, n in enumerate(numbers) if k not in (i, j)]


def moves(numbers: Sequence[int], rng: random.Random) -> Iterator[tuple[tuple[str, int, int, int], list[int]]]:
    """Every legal operation on two of the numbers with the numbers that it leaves alone, pairs in random order."""
    pairs = list(combinations(range(len(numbers)), 2))
    for i, j in rng.sample(pairs, len(pairs)):
        legal = list(results(numbers[i], numbers[j]))
        for operation in rng.sample(legal, len(legal)):
            yield operation, rest_of(numbers, i, j)


def evaluate(sign: str, left: int, right: int) -> int | None:
    """The result of one legal operation, else None."""
    return next((v for s, high, low, v in results(left, right) if (s, high, low) == (sign, left, right)), None)


def value_of(expression: str) -> Fraction | None:
    """The exact value of an expression of whole numbers, + - * / and brackets; None if it is not one, or a very long one."""
    if not EXPRESSION.fullmatch(expression):
        return None

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                return Fraction(number)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in SIGNS:
                return SIGNS[type(op)](value(left), value(right))
        raise ValueError(expression)

    try:
        return value(ast.parse(expression, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


class Countdown:
    """Combine all the given numbers with + - * / into the target, each once.

    Difficulty sets how many numbers there are and how large they may be (`LEVELS`). Every intermediate result is a whole
    number from 1 to 99 and the larger operand comes first. A step shows one operation and the numbers that are left. Any
    valid solution counts. The canonical answer is the expression.
    """

    name = "countdown"
    step_break = "\n"
    step_tokens = 24
    max_steps = 6
    draft_tokens = 90
    checkable = True
    difficulties: Sequence[int] = range(1, 7)
    middle = 2

    def problem(self, difficulty: int, index: int, split: Split = "test") -> Problem:
        check_difficulty(self.name, difficulty, self.difficulties)
        place = f"{self.name}/{difficulty}/{split}/{index}"
        return draw(lambda rng: self._make(rng, difficulty, place), self._canonical, place, split)

    def _make(self, rng: random.Random, difficulty: int, name: str) -> Problem:
        count, largest, signs = LEVELS[difficulty]
        numbers = [rng.randrange(1, largest + 1) for _ in range(count)]
        steps = list(self._walk(rng, numbers, signs))
        target = steps[-1][0][3]
        text = f"countdown {' '.join(map(str, numbers))} = {target}\n"
        return Problem(text, None, name, difficulty)

    def _walk(
        self, rng: random.Random, numbers: list[int], signs: str
    ) -> Iterator[tuple[tuple[str, int, int, int], list[int]]]:
        """Random legal operations with these signs until one number is left; of any two numbers one is legal."""
        while len(numbers) > 1:
            i, j = rng.sample(range(len(numbers)), 2)
            legal = [operation for operation in results(numbers[i], numbers[j]) if operation[0] in signs]
            operation = rng.choice(legal)
            numbers = [operation[3], *rest_of(numbers, i, j)]
            yield operation, numbers

    def reads(self, text: str) -> bool:
        return PROMPT.fullmatch(text) is not None

    def prompt(self, problem: Problem) -> tuple[Message, ...]:
        return ({"role": "user", "content": problem.text},)

    def _asked(self, problem: Problem) -> tuple[list[int], int]:
        found = PROMPT.match(problem.text)
        assert found, problem.text
        return [int(n) for n in found[1].split()], int(found[2])

    def _canonical(self, problem: Problem) -> str:
        numbers, target = self._asked(problem)
        return f"{sorted(numbers)} = {target}"

    def answer(self, text: str, problem: Problem) -> str | None:
        """The expression that the steps compose; None if one of them is false or uses a number that is not there."""
        pool = [(str(n), n) for n in self._asked(problem)[0]]
        for left, sign, right, result, _ in STEP.findall(text):
            if value_of(f"{left}{sign}{right}") != int(result):
                return None
            taken = []
            for operand in (int(left), int(right)):
                found = next((item for item in pool if item[1] == operand), None)
                if found is None:
                    return None
                pool.remove(found)
                taken.append(found[0])
            pool.insert(0, (f"({taken[0]}{sign}{taken[1]})", int(result)))
        return pool[0][0].removeprefix("(").removesuffix(")") if len(pool) == 1 else None

    def correct(self, answer: str, problem: Problem) -> bool | None:
        """Any expression that uses each given number once and has the target's value."""
        numbers, target = self._asked(problem)
        used = re.findall(r"\d+", answer)
        return sorted(used) == sorted(map(str, numbers)) and value_of(answer) == target

    def solution(self, problem: Problem) -> str:
        return self.attempt(problem, random.Random(problem.text), 0.0)

    def attempt(self, problem: Problem, rng: random.Random, slip: float) -> str:
        """A step that goes wrong is any legal operation, most often one that leads away from the target, or a false result."""
        numbers, target = self._asked(problem)
        lines = []
        while len(numbers) > 1:
            astray = rng.random() < slip
            (sign, high, low, value), rest = next(
                (m for m in moves(numbers, rng) if astray or reachable(tuple(sorted([m[0][3], *m[1]])), target)),
                next(moves(numbers, rng)),  # the target is out of reach already
            )
            if astray and rng.random() < MISCOUNTED:
                value = rng.choice([n for n in range(1, LARGEST + 1) if n != value])
            numbers = [value, *rest]
            lines.append(f"{high}{sign}{low}={value} | {' '.join(map(str, numbers))}\n")
        return "".join(lines).rstrip("\n")

    def right_so_far(self, text: str, problem: Problem) -> list[bool]:
        """A step is right if its operation is legal, its book-keeping true, and the target still within reach."""
        numbers, target = self._asked(problem)
        verdicts: list[bool] = []
        for line in text.splitlines(keepends=True):
            after = self._apply(line, numbers) if all(verdicts) else None
            verdicts.append(after is not None and reachable(tuple(sorted(after)), target))
            numbers = after or numbers
        return verdicts

    def _apply(self, line: str, numbers: list[int]) -> list[int] | None:
        found = STEP.fullmatch(line)
        if not found:
            return None
        left, right, result = int(found[1]), int(found[3]), int(found[4])
        rest = list(numbers)
        for operand in (left, right):
            if operand not in rest:
                return None
            rest.remove(operand)
        if evaluate(found[2], left, right) != result:
            return None
        after = [int(n) for n in found[5].split()]
        return after if sorted(after) == sorted([result, *rest]) else None
