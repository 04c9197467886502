"""Chains whose solutions check themselves: every result is computed again, and a step that fails its check is done again.

The length of a draft varies with its luck, as that of a reasoning model's does: what stops early, cuts or waits for the first
to finish can be studied on it.
"""

from __future__ import annotations

import random
import re

from forethought.core.problem import Problem
from forethought.tasks.chain import Chain, apply, operations, slipped

STEP = re.compile(r"(\d+)\) \d+[-+*]\d+=\d+\n")
CHECK = re.compile(r"check \d+[-+*]\d+=\d+\n")
OFTEN = 5  # times as many slips as asked: a check that hardly ever mends anything would be learned as a copy
BLIND = 0.2  # the chance that a check repeats a wrong result


class ChainChecked(Chain):
    """The problems of `chain`; each step is followed by a line that computes its result again.

    If the two differ, the step is written again. A step and its check can be wrong together: most slips are mended, not all.
    """

    name = "chain-checked"
    max_steps = 64
    draft_tokens = 512

    def attempt(self, problem: Problem, rng: random.Random, slip: float) -> str:
        value, todo = operations(problem)
        lines = []
        for number, (sign, operand) in enumerate(todo, 1):
            asked, truth = f"{value}{sign}{operand}", apply(value, sign, operand)
            check = None
            while check != value:
                value, check = tried(truth, rng, min(0.5, OFTEN * slip))
                lines.append(f"{number}) {asked}={value}\ncheck {asked}={check}\n")
        return "".join(lines) + f"answer: {value}"

    def right_so_far(self, text: str, problem: Problem) -> list[bool]:
        """A wrong step that is written again is right again: what counts is the last line of each number."""
        *steps, end = self.solution(problem).splitlines(keepends=True)
        truth = dict(enumerate(steps[::2], 1))
        right, last, verdicts = {0: True}, 0, []
        for line in text.splitlines(keepends=True):
            if step := STEP.fullmatch(line):
                last = int(step[1])
                right[last] = right.get(last - 1, False) and line == truth.get(last)
            formed = bool(step or CHECK.fullmatch(line)) or (last == len(truth) and line == end)
            verdicts.append(right[last] and formed)
        return verdicts


def tried(truth: int, rng: random.Random, slip: float) -> tuple[int, int]:
    """The result of a step and of its check."""
    value = slipped(truth, rng) if rng.random() < slip else truth
    if rng.random() < BLIND:
        return value, value
    return value, slipped(truth, rng) if rng.random() < slip / OFTEN else truth
