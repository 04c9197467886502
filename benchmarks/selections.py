"""Times selections: one verdict over 10,000 samples, and 100,000 recorded samples under six selections and ten n."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from types import MappingProxyType

import anyio
from _common import Measured, interleaved, machine, options, report

from forethought.bench.recorded import Recorded, Strings
from forethought.bench.replay import Order, Replay, replay
from forethought.core.cost import Cost
from forethought.core.draft import Draft, Grade
from forethought.core.population import Particle, Population
from forethought.core.problem import Problem
from forethought.core.scope import Run, Scope
from forethought.methods import By
from forethought.models.scripted import Scripted
from forethought.selection import Tallying, selections
from forethought.tasks.chain import Chain
from forethought.verifiers import verifiers

DRAFTS, PROBLEMS, SAMPLES = 10_000, 1000, 100
SIX = ("first", "majority", "weighted", "best", "best-of-majority", "mbr")
TEN = (1, 2, 3, 4, 8, 16, 32, 50, 64, 100)
ASKED = Problem("What is 6 * 7?", "42")
GRADER = verifiers.parse("exact")
MOST: dict[str, float] = {"rpc": 1000.0}  # milliseconds; others 50


def draft(rng: random.Random, number: int) -> Draft:
    said = "42" if rng.random() < 0.4 else str(rng.randrange(40))
    grades = MappingProxyType({str(GRADER): Grade(rng.random())})
    text, cost = f"Let me see, {number}.\nanswer: {said}", Cost(calls=1, new_tokens=10, critical_tokens=10)
    return Draft(None, text, logprobs=(-rng.random(),) * 10, size=10, finish="end", cost=cost, grades=grades)


def population(count: int) -> Population[Draft]:
    rng = random.Random(0)
    return [Particle(draft(rng, i), 0.0, True) for i in range(count)]


def verdict(name: str, pop: Population[Draft]) -> float:
    """Milliseconds from a population of drafts to a verdict, reading their answers as the task `chain` does included."""
    rule, by = selections.parse(name), By(Scripted(lambda *_: ""), Chain(), GRADER)
    found: list[float] = []

    async def timed() -> None:
        start = time.perf_counter()
        await rule(pop, ASKED, by, Scope.root(Run()))
        found.append(1000 * (time.perf_counter() - start))

    anyio.run(timed)
    return found[0]


def recorded() -> list[Recorded]:
    rng, made = random.Random(1), []
    for _ in range(PROBLEMS):
        drafts = [draft(rng, i) for i in range(SAMPLES)]
        said = [d.text.rsplit(" ", 1)[1] for d in drafts]
        made.append(Recorded(Strings("exact"), ASKED, drafts, said, [a == "42" for a in said]))
    return made


def replayed(problems: list[Recorded], order: Order) -> float:
    start = time.perf_counter()
    replay(Replay(problems, str(GRADER), order), SIX, [], TEN)
    return time.perf_counter() - start


def main() -> None:
    asked = options(__doc__ or "", repetitions=3).parse_args()
    before, pop, problems = machine(), population(DRAFTS), recorded()
    names = [name for name in selections if isinstance(selections.parse(name), Tallying)]
    verdicts: dict[str, Callable[[], float]] = {name: partial(verdict, name, pop) for name in names}
    orders: dict[Order, Callable[[], float]] = {"given": partial(replayed, problems, "given")}
    orders["shuffled"] = partial(replayed, problems, "shuffled")
    measured = [
        Measured(f"{name}, {DRAFTS} samples", "ms", times, MOST.get(name, 50.0))
        for name, times in interleaved(verdicts, asked.repetitions).items()
    ]
    size = f"{PROBLEMS * SAMPLES} samples, {len(SIX)} selections, {len(TEN)} n"
    times = interleaved({str(order): call for order, call in orders.items()}, asked.repetitions)
    measured += [Measured(f"replay, {order}: {size}", "s", values, 20.0) for order, values in times.items()]
    report("selections", measured, before, asked.json)


if __name__ == "__main__":
    main()
