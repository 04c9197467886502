"""What a run costs with a model that answers at once: ours with its ledger and its trace in memory, theirs bare.

Prediction: ours cannot be below theirs where theirs does nothing for a call but make a task of it or append to a list. A
call of ours is a place with a seed, a reservation, a charge in each account around, a draft and a row of the trace: 50
to 60 us above a bare task (`overhead.py`). Theirs is a bare task, 10 to 30 us, and copies of step lists. Where theirs does work
of its own for a call (deep copies of a search's state), ours is below.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.lowlevel

from forethought.assembly import assemble
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Seeded
from forethought.core.trace import MemoryTrace
from forethought.models.scripted import Scripted
from forethought.solving import Parts, populate
from forethought.tasks.protocol import Task
from forethought.tasks.text import Text
from forethought.verifiers import verifiers

from .ours import spelled
from .session import END
from .theirs import THEIRS

N, STEPS, TEMPERATURE = 64, 10, 0.8
AMPLE = Budget({"tokens": 1e9})


def script(prompt: str, so_far: str, seed: int) -> str:
    """STEPS lines, then an answer."""
    left = STEPS - so_far.count("\n")
    return f"step {seed % 10} up\n" * left + f"answer: {seed % 7}"


def grade_of(text: str) -> float:
    return (hash(text) % 97 + 1) / 98


@verifiers.register("hashed")
@dataclass(frozen=True)
class Hashed:
    """A process verifier that grades at once."""

    name = "hashed"
    process = True

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=3)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        await anyio.lowlevel.checkpoint()
        return Grade(grade_of(draft.text)), Cost(verifier_calls=1, verifier_tokens=3)


class Stairs(Text):
    """Drafts of a fixed number of lines."""

    name = "stairs"
    step_break = "\n"
    step_tokens = 8
    max_steps = STEPS + 2


class Bare:
    """A session that answers at once and counts nothing."""

    def __init__(self) -> None:
        self.calls = 0

    async def extend(self, so_far: str, stop: str | None) -> str:
        await asyncio.sleep(0)
        self.calls += 1
        text = script("", so_far, 7919 * self.calls)
        return text[: text.index("\n") + 1] if stop and "\n" in text else text + END

    async def grade(self, text: str) -> float:
        await asyncio.sleep(0)
        self.calls += 1
        return grade_of(text)


def parts(name: str) -> Parts:
    method, select = spelled(name, N, TEMPERATURE)
    return assemble(Stairs(), Scripted(script), method, "hashed", select, AMPLE)


def ours(name: str) -> float:
    """Microseconds a call, from the first to the verdict, inside the event loop."""
    made = parts(name)

    async def timed() -> float:
        gc.collect()
        start = time.perf_counter()
        done = await populate(made, Problem("?"), Run(Seeded(1), MemoryTrace()))
        await done.select(made.selection, made.by, Problem("?"))
        seconds, cost = time.perf_counter() - start, done.at.cost()
        return 1e6 * seconds / (cost.calls + cost.verifier_calls)

    return anyio.run(timed)


def theirs(name: str) -> float:
    async def timed() -> float:
        gc.collect()
        session = Bare()
        start = time.perf_counter()
        await THEIRS[name](session, N, STEPS + 2, TEMPERATURE, lambda text: text[-1:])
        return 1e6 * (time.perf_counter() - start) / session.calls

    return anyio.run(timed)


def cases(names: list[str]) -> Mapping[str, Callable[[], float]]:
    return {
        f"{side}, {name}": partial(run, name) for name in names for side, run in (("ours", ours), ("theirs", theirs))
    }
