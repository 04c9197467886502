"""Problems without limit: drawn by place, split into train and test by a hash of what is asked."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.tasks.protocol import Task

Split = Literal["train", "test"]
TEST_SHARE = 8  # one problem in eight is a test problem


class GeneratedTask(Task, Protocol):
    """A task that makes its own problems, shows a solution of each, and can judge every step of a draft."""

    @property
    def difficulties(self) -> Sequence[int]: ...

    @property
    def middle(self) -> int:
        """The lowest difficulty at which the shipped reasoner's greedy accuracy is 35 to 65 %."""
        ...

    def problem(self, difficulty: int, index: int, split: Split = "test") -> Problem: ...

    def reads(self, text: str) -> bool:
        """Whether the text has the form of this task's problems."""
        ...

    def solution(self, problem: Problem) -> str:
        """A right text for this problem, as the reasoner is trained to write it."""
        ...

    def attempt(self, problem: Problem, rng: random.Random, slip: float) -> str:
        """A text of a solution's form whose steps each go wrong with chance `slip`; what follows builds on the slip."""
        ...

    def right_so_far(self, text: str, problem: Problem) -> list[bool]:
        """For each step of the text: can the draft up to here still end in a right answer without undoing anything?"""
        ...


def split_of(asked: str) -> Split:
    """The split is a property of what is asked, so no generator can leak a test problem into training."""
    return "test" if hashlib.blake2b(asked.encode(), digest_size=4).digest()[0] % TEST_SHARE == 0 else "train"


def draw(
    make: Callable[[random.Random], Problem], asked: Callable[[Problem], str], place: str, split: Split
) -> Problem:
    """The first problem of this split among those that `make` draws at `place`.

    `asked` is the canonical form of a problem, the same for all its wordings.
    """
    for attempt in itertools.count():
        problem = make(random.Random(f"{place}/{attempt}"))
        if split_of(asked(problem)) == split:
            return problem
    raise AssertionError("unreachable")


def check_difficulty(task: str, difficulty: int, known: Sequence[int]) -> None:
    if difficulty not in known:
        raise UsageError(f"{task} has difficulties {known[0]} to {known[-1]}, not {difficulty}")
