"""What the core costs a call, with a model that answers at once.

A call is one call to the model or to the verifier: both are admitted, charged and recorded alike. `sample(n=1000)` makes
1,000, the particle filter with 1,000 particles over 20 steps 40,000.

Prediction: the limit is operations of the interpreter. A fan-out starts a task only where calls wait (see `crew`): the script
lets the loop pass once a call, so 16 tasks serve all 1,000, and a call pays for one turn of a task that is there, 5 to 8 us,
where a bare task of anyio takes 25 to 35 on the machine of the results (a handle, a cancel scope, an event, weak references,
two passes). A call through the core adds two or three hundred small Python operations of 0.1 us or so: nine sums of costs of
11 entries at 1 us each (reserved, charged in each account around, released), place and seed 4, two looks at the clock 3,
making request, completion, draft and particles 8, admission and bound 6, digest 3, the scripted model itself 8. So 60 to 70
us in all, and 5 to 10 us of garbage collection of what a large population keeps alive. With the store calls do wait, for
their commit, so each has its task, 25 us more; JSON of a row and its insert are 15 to 25 us; commits are shared, so their
round trips (0.1 ms and up) are not paid by the call.
Memory: one draft, one particle, one event a call, each of a few hundred bytes, and nothing that grows faster.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
from _common import Measured, interleaved, machine, options, ratios, report

from forethought.assembly import assemble
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Seeded
from forethought.core.store import RunStore
from forethought.core.trace import MemoryTrace, Trace
from forethought.models.scripted import Scripted
from forethought.solving import Made, Parts, populate
from forethought.tasks.protocol import Task
from forethought.tasks.text import Text
from forethought.verifiers import verifiers

N, STEPS = 1000, 20
IN_MEMORY, STORED, GROWTH = 100.0, 150.0, 1.1  # microseconds a call; bytes a call at the largest over the smallest size
SIZES = (500, 1000, 2000)
PROBLEM = Problem("How many steps are there?")
AMPLE = Budget({"tokens": 1e9, "seconds": 3600})  # limits as every run has, and never reached


@verifiers.register("coin")
@dataclass(frozen=True)
class Coin:
    """A process verifier that grades by its seed, without looking."""

    name = "coin"
    process = True

    def oracle(self, task: Task) -> bool:
        return False

    def bound(self, draft: Draft, problem: Problem, task: Task) -> Cost:
        return Cost(verifier_calls=1, verifier_tokens=3)

    async def grade(self, draft: Draft, problem: Problem, task: Task, call: Call) -> tuple[Grade, Cost]:
        await anyio.lowlevel.checkpoint()
        return Grade((call.seed % 97 + 1) / 98), Cost(verifier_calls=1, verifier_tokens=3)


class Stairs(Text):
    """Drafts of a fixed number of lines."""

    name = "stairs"
    step_break = "\n"
    step_tokens = 8
    max_steps = STEPS


def script(prompt: str, so_far: str, seed: int) -> str:
    return f"step {seed % 10} up\n"


def sampling(n: int) -> Parts:
    return assemble(Stairs(), Scripted(script), f"sample(n={n})", None, "majority", AMPLE)


def filtering(n: int) -> Parts:
    return assemble(Stairs(), Scripted(script), f"particle-filter(n={n})", "coin", "majority", AMPLE)


METHODS: dict[str, Callable[[], Parts]] = {
    f"sample(n={N})": partial(sampling, N),
    f"particle-filter(n={N}), {STEPS} steps": partial(filtering, N),
}


def calls(made: Made) -> int:
    cost = made.at.account.cost
    return cost.calls + cost.verifier_calls


def run(parts: Parts, trace: Trace) -> tuple[Made, float]:
    """What was made, and the seconds it took inside the event loop."""
    results: list[
        tuple[Made, float]
    ] = []  # no return value: at the end CPython 3.11 makes the `repr` of what a task returns

    async def timed() -> None:
        start = time.perf_counter()
        made = await populate(parts, PROBLEM, Run(Seeded(1), trace))
        results.append((made, time.perf_counter() - start))

    anyio.run(timed)
    return results[0]


def in_memory(parts: Callable[[], Parts]) -> float:
    """Microseconds a call with the trace in memory."""
    gc.collect()
    made, seconds = run(parts(), MemoryTrace())
    return seconds / calls(made) * 1e6


def stored(parts: Callable[[], Parts]) -> float:
    """Microseconds a call with every call committed to a new store, to the end of the run."""
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(Path(folder) / "runs.sqlite")
        row = store.begin("benchmark", {})
        made, seconds = run(parts(), store.trace(row.id))
        start = time.perf_counter()
        store.end(row.id, "done")
        seconds += time.perf_counter() - start
        store.close()
    return seconds / calls(made) * 1e6


def bare() -> float:
    """Microseconds a task of a bare task group that does nothing but run the script: what a task for every call would cost."""

    async def one(seed: int) -> None:
        await anyio.lowlevel.checkpoint()
        script(PROBLEM.text, "", seed)

    async def group() -> float:
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for seed in range(N):
                tasks.start_soon(one, seed)
        return time.perf_counter() - start

    return anyio.run(group) / N * 1e6


def held(parts: Parts) -> float:
    """Bytes a call that the population and its trace hold after the run. Exact, so one repetition is enough."""
    gc.collect()
    trace = MemoryTrace()
    tracemalloc.start()
    made, _ = run(parts, trace)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / calls(made)


def memory() -> list[Measured]:
    """Bytes a call at growing sizes: drafts of `sample`, and as many distinct drafts of a filter."""
    measured = []
    for name, make in {"sample": sampling, "particle-filter": lambda n: filtering(n // STEPS)}.items():
        sizes = [held(make(n)) for n in SIZES]
        pairs = zip(SIZES, sizes, strict=True)
        measured += [Measured(f"{name}, {n} drafts: bytes a call", "B", [size]) for n, size in pairs]
        measured.append(Measured(f"{name}: bytes a call, largest / smallest", "", [sizes[-1] / sizes[0]], GROWTH))
    return measured


def speed(repetitions: int) -> list[Measured]:
    cases: dict[str, Callable[[], float]] = {"bare task": bare}
    for name, parts in METHODS.items():
        cases |= {f"{name}, in memory": partial(in_memory, parts), f"{name}, SQLite": partial(stored, parts)}
    times = interleaved(cases, repetitions)
    measured = []
    for name, values in times.items():
        target = IN_MEMORY if "memory" in name else STORED if "SQLite" in name else None
        measured.append(Measured(name, "us", values, target))
    over = [Measured(f"{name} / bare task", "", ratios(times[name], times["bare task"])) for name in list(cases)[1:]]
    return measured + over


def profile() -> None:
    """Where the time of each method goes, in memory."""
    for parts in METHODS.values():
        profiler = cProfile.Profile()
        profiler.runcall(run, parts(), MemoryTrace())
        pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = options(__doc__ or "", repetitions=5)
    parser.add_argument("--profile", action="store_true", help="print where the time goes instead")
    asked = parser.parse_args()
    if asked.profile:
        profile()
        return
    before = machine()
    report("overhead", speed(asked.repetitions) + memory(), before, asked.json)


if __name__ == "__main__":
    main()
