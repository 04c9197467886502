"""Large searches with a model and a verifier that answer at once, the trace in memory: seconds, and bytes a node.

A node of a tree search is a step that is drawn and graded: two calls. 10,000 particles over 10 steps are 200,000 calls.

Prediction: a call through the core costs 50 to 60 us on a machine whose bare task takes 22 (see `overhead.py`), so 10,000 nodes
at least 1.1 s, and the filter 11 s, whatever the methods do. A round of eight simulations is two fan-outs, a wave each, so that
their beginning and their end, 40 us or so, add 10 us a node. Of the filter's time a quarter is the garbage collector's: a
fan-out of 10,000 makes some 100,000 objects that live as long as it does.
Memory: a draft, a node, two pickled events.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial

from _common import Measured, interleaved, machine, options, report
from overhead import AMPLE, GROWTH, Stairs, calls, run

from forethought.assembly import assemble
from forethought.core.trace import MemoryTrace
from forethought.models.scripted import Scripted
from forethought.solving import Parts

NODES, PARTICLES, STEPS = 10_000, 10_000, 10
SIZES = (500, 1000, 2000)


class Flight(Stairs):
    """As many steps as the filter's bar names."""

    name = "flight"
    max_steps = STEPS


def script(prompt: str, so_far: str, seed: int) -> str:
    """No two steps are the same, so that each is a node of its own."""
    return f"step {seed} up\n"


def searching(method: str, n: int) -> Parts:
    return assemble(Stairs(), Scripted(script), f"{method}(n={n}, rollout=False)", "coin", "best", AMPLE)


def filtering(n: int) -> Parts:
    return assemble(Flight(), Scripted(script), f"particle-filter(n={n})", "coin", "majority", AMPLE)


CASES: dict[str, tuple[Callable[[int], Parts], int, float]] = {  # and the most seconds
    f"mcts, {NODES} nodes": (partial(searching, "mcts"), NODES, 2.0),
    f"ab-mcts-a, {NODES} nodes": (partial(searching, "ab-mcts-a"), NODES, 5.0),
    f"particle-filter, {PARTICLES} particles, {STEPS} steps": (filtering, PARTICLES, 10.0),
}


def seconds(make: Callable[[int], Parts], n: int) -> float:
    gc.collect()
    return run(make(n), MemoryTrace())[1]


def held(make: Callable[[int], Parts], n: int) -> float:
    """Bytes a call that are held after the run, trace included."""
    gc.collect()
    trace = MemoryTrace()
    tracemalloc.start()
    made, _ = run(make(n), trace)
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / calls(made)


def memory() -> list[Measured]:
    measured = []
    for name, (make, _, _) in CASES.items():
        sizes = [held(make, n) for n in SIZES]
        method, most, least = name.partition(",")[0], SIZES[-1], SIZES[0]
        measured.append(Measured(f"{method}: bytes a call, n = {most}", "B", sizes[-1:]))
        measured.append(Measured(f"{method}: the same, n = {most} / {least}", "", [sizes[-1] / sizes[0]], GROWTH))
    return measured


def main() -> None:
    asked = options(__doc__ or "", repetitions=3).parse_args()
    before = machine()
    times = interleaved({name: partial(seconds, make, n) for name, (make, n, _) in CASES.items()}, asked.repetitions)
    found = [Measured(name, "s", values, CASES[name][2]) for name, values in times.items()]
    report("large", found + memory(), before, asked.json)


if __name__ == "__main__":
    main()
