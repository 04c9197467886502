"""Training examples: problems of the train split with solutions, in batches of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from forethought.core.problem import Problem
from forethought.reasoner.vocabulary import BOS, EOS, SOLUTION
from forethought.tasks import GENERATED
from forethought.tasks.generated import GeneratedTask

TASKS: tuple[GeneratedTask, ...] = tuple(GENERATED.values())  # chain, chain-checked, countdown, procedure
EARLY, LATE = (
    (0.30, 0.12, 0.35, 0.23),
    (0.12, 0.06, 0.52, 0.30),
)  # shares of the tasks; search is learned last and slowest
LEVELS = {"countdown": (5, 6, 6, 3, 2, 1)}  # weights of the difficulties once the forms are known; else see `level`
LONGEST = 20  # what is learned from; a procedure beyond it is hard by its length alone
SLIP = 0.02  # the chance that a step of a text to learn from goes wrong, so that samples err here and there
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


def draw_problem(rng: random.Random, *, late: bool) -> tuple[GeneratedTask, Problem]:
    """A problem of the train split."""
    task = rng.choices(TASKS, LATE if late else EARLY)[0]
    return task, task.problem(level(task, rng, late=late), rng.getrandbits(62), "train")


def level(task: GeneratedTask, rng: random.Random, *, late: bool) -> int:
    """A difficulty; short procedures are drawn more often, since every step of them teaches the same."""
    if task.name in LEVELS:
        return rng.choices(task.difficulties, LEVELS[task.name] if late else None)[0]
    return min(rng.choice(learned(task)), rng.choice(learned(task)))


def learned(task: GeneratedTask) -> list[int]:
    """The difficulties that training draws from."""
    return [d for d in task.difficulties if d <= LONGEST]


def prompt_ids(problem: Problem, tokenizer: Tokenizer) -> list[int]:
    ids: list[int] = tokenizer.encode(f"{BOS}{problem.text}{SOLUTION}", add_special_tokens=False).ids
    return ids


def solved(rng: random.Random, tokenizer: Tokenizer, *, late: bool) -> Example:
    """A problem with a solution whose steps slip now and then; the loss is on the solution only."""
    task, problem = draw_problem(rng, late=late)
    prompt = prompt_ids(problem, tokenizer)
    solution = tokenizer.encode(task.attempt(problem, rng, SLIP) + EOS, add_special_tokens=False).ids
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
