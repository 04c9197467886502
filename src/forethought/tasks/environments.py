"""Worlds that moves lead through: puzzles and tools, whose states can be taken up again. A text is only their record."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Protocol, TypeVar

from forethought.core.problem import Problem
from forethought.tasks.countdown import PROMPT, evaluate, rest_of, results

S = TypeVar("S")
OPERATION = re.compile(r"\s*(\d{1,3})([-+*/])(\d{1,3})")


class Environment(Protocol[S]):
    """A world that can be reset. Its states are immutable values, so an earlier one is gone on from as if nothing had happened.

    The same move in the same state always leads to the same one. A tool with a memory of its own keeps that promise where its
    state is the list of moves, which `step` makes again from the start.
    """

    def start(self) -> S: ...

    def moves(self, state: S) -> Sequence[str]:
        """All legal moves; none where it is over."""
        ...

    def read(self, state: S, text: str) -> str | None:
        """The legal move that a model's words mean; None if there is none."""
        ...

    async def step(self, state: S, move: str) -> tuple[S, str]:
        """The state after a legal move, and what is to be written of it."""
        ...

    def value(self, state: S) -> float | None:
        """From 0, lost, to 1, solved; None where the world cannot tell."""
        ...


class CountdownMoves:
    """Countdown as a game: the numbers are the state, an operation on two of them is a move. The world does the sums."""

    def __init__(self, problem: Problem) -> None:
        found = PROMPT.fullmatch(problem.text)
        assert found, problem.text
        self.numbers, self.target = tuple(int(n) for n in found[1].split()), int(found[2])

    def start(self) -> tuple[int, ...]:
        return self.numbers

    def moves(self, state: tuple[int, ...]) -> list[str]:
        pairs = combinations(state, 2)
        return list(dict.fromkeys(f"{high}{sign}{low}" for a, b in pairs for sign, high, low, _ in results(a, b)))

    def read(self, state: tuple[int, ...], text: str) -> str | None:
        found = OPERATION.match(text)
        if found is None:
            return None
        left, sign, right = found.groups()
        meant = {f"{int(left)}{sign}{int(right)}", f"{int(right)}{sign}{int(left)}" if sign in "+*" else ""}
        return next((move for move in self.moves(state) if move in meant), None)

    async def step(self, state: tuple[int, ...], move: str) -> tuple[tuple[int, ...], str]:
        found = OPERATION.fullmatch(move)
        assert found, move
        left, sign, right = int(found[1]), found[2], int(found[3])
        result, first = evaluate(sign, left, right), state.index(left)
        assert result is not None, move
        second = next(i for i, n in enumerate(state) if n == right and i != first)
        after = (result, *rest_of(state, first, second))
        said = f"{move}={result} | {' '.join(map(str, after))}"
        return after, said + ("\n" if len(after) > 1 else "")

    def value(self, state: tuple[int, ...]) -> float | None:
        return float(state[0] == self.target) if len(state) == 1 else None


ENVIRONMENTS: dict[str, Callable[[Problem], Environment[Any]]] = {"countdown": CountdownMoves}
"""By the name of the task. In all other tasks a step of text is a move, and the text so far the state."""
