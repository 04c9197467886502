"""Tasks by name."""

from forethought.core.errors import UsageError
from forethought.core.registry import unknown
from forethought.tasks.chain import Chain
from forethought.tasks.chain_checked import ChainChecked
from forethought.tasks.countdown import Countdown
from forethought.tasks.generated import GeneratedTask
from forethought.tasks.mathematics import Math
from forethought.tasks.procedure import Procedure
from forethought.tasks.protocol import Task
from forethought.tasks.text import Text

GENERATED: dict[str, GeneratedTask] = {task.name: task for task in (Chain(), ChainChecked(), Countdown(), Procedure())}
TASKS: dict[str, Task] = {**GENERATED, "text": Text(), "math": Math()}


def task_named(name: str) -> Task:
    if name not in TASKS:
        raise UsageError(unknown("task", name, TASKS))
    return TASKS[name]


def generated_task(name: str) -> GeneratedTask:
    """A task that has problems of its own."""
    if name not in GENERATED:
        raise UsageError(unknown("generated task", name, GENERATED))
    return GENERATED[name]


__all__ = ["GENERATED", "TASKS", "GeneratedTask", "Task", "generated_task", "task_named"]
