"""Training examples: problems of the train split with solutions, in batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from forethought.core.problem import Problem
from forethought.reasoner.vocabulary import BOS, EOS
from forethought.tasks.chain import Chain
from forethought.tasks.countdown import Countdown
from forethought.tasks.generated import GeneratedTask
from forethought.tasks.procedure import Procedure

SHARES: list[tuple[GeneratedTask, float]] = [(Chain(), 0.40), (Countdown(), 0.35), (Procedure(), 0.25)]
IGNORED = -100  # positions without a loss, as torch's cross entropy spells it


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids and, at each position, the label to predict *at* it (IGNORED where none)."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class Batch:
    ids: torch.Tensor  # [rows, length], right-padded
    labels: torch.Tensor  # the same shape


def draw_problem(rng: random.Random) -> tuple[GeneratedTask, Problem]:
    """A problem of the train split; short chains are drawn more often, since every step of them teaches the same."""
    tasks, shares = zip(*SHARES, strict=True)
    task: GeneratedTask = rng.choices(tasks, shares)[0]
    hardest = len(task.difficulties)
    level = rng.randrange(hardest) if task.name == "countdown" else min(rng.randrange(hardest), rng.randrange(hardest))
    return task, task.problem(task.difficulties[level], rng.getrandbits(62), "train")


def prompt_ids(problem: Problem, tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = tokenizer.encode(f"{BOS}{problem.text}\n", add_special_tokens=False).ids
    return ids


def solved(rng: random.Random, tokenizer: Tokenizer) -> Example:
    """A problem with a right solution; the loss is on the solution only."""
    task, problem = draw_problem(rng)
    prompt = prompt_ids(problem, tokenizer)
    solution = tokenizer.encode(task.solution(problem) + EOS, add_special_tokens=False).ids
    ids = [*prompt, *solution]
    return Example(ids[:-1], [IGNORED] * (len(prompt) - 1) + solution)


def batches(examples: Iterator[Example], pad: int, *, tokens: int, pool: int, rng: random.Random) -> Iterator[Batch]:
    """Cut sorted pools of examples into batches of at most `tokens` positions, padding included, in random order."""
    while True:
        drawn = sorted((next(examples) for _ in range(pool)), key=lambda e: len(e.ids))
        groups: list[list[Example]] = [[]]
        for example in drawn:
            if (len(groups[-1]) + 1) * len(example.ids) > tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        yield from (collate(group, pad) for group in groups)


def collate(group: list[Example], pad: int) -> Batch:
    width = max(len(e.ids) for e in group)
    ids = torch.tensor([e.ids + [pad] * (width - len(e.ids)) for e in group])
    labels = torch.tensor([e.labels + [IGNORED] * (width - len(e.labels)) for e in group])
    return Batch(ids, labels)
