"""A process reward model: after each step, the probability that the draft is right so far."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call
from forethought.reasoner.loader import folder
from forethought.tasks.protocol import Task
from forethought.verifiers.protocol import nearest, verifiers

if TYPE_CHECKING:
    from forethought.models.reward import RewardModel


@functools.cache
def reward_model(path: str | None) -> RewardModel:
    """One engine a model and process, so that all verifiers of a run meet in it."""
    from forethought.models.reward import RewardModel  # imports torch

    return RewardModel(Path(path) if path else folder("reward"))


@verifiers.register("process")
@dataclass(frozen=True)
class Process:
    """A local process reward model: the shipped one, or a folder with a Llama token classifier (`path`).

    Its value is the grade of the last step. Its own KV follows the drafts, so that grading a step reads only the step's
    new tokens: `verifier_tokens` counts those.
    """

    name = "process"
    process = True
    path: str | None = None

    def oracle(self, task: Task) -> bool:
        return False

    def load(self) -> None:
        reward_model(self.path).load()

    @property
    def weights(self) -> str:
        """The model's files by their content. Raises UsageError if they are not there or cannot be read."""
        return reward_model(self.path).weights

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return reward_model(self.path).bound(task.prompt(problem), draft, nearest(draft, str(self)))

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        return await reward_model(self.path).grade(task.prompt(problem), draft, nearest(draft, str(self)))
