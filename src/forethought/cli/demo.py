"""`forethought demo`: what inference-time compute buys, in a minute."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import anyio

from forethought.bench.run import Bench
from forethought.cli import show
from forethought.cli.bench import measured
from forethought.core.budget import Budget
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.models.names import model_named
from forethought.parts import Parts
from forethought.selection import selections
from forethought.solving import populate
from forethought.tasks import generated_task
from forethought.verifiers import verifiers

CONTENDERS = [  # twelve drafts at once each: sixteen take 90 s on two cores on a slow day
    ("greedy", "first"),
    ("sample(n=12)", "majority"),
    ("sample(n=12)", "best"),
    ("beam(width=4, expand=3)", "best"),
    ("particle-filter(n=12)", "weighted"),
]
PROBLEMS, TREE = 30, "beam(width=3, expand=3)"


def run_demo() -> None:
    began = time.perf_counter()
    show.console.print("The embedded reasoner: a frozen 1M-parameter model, a process reward model of the same size.\n")
    for task, cap in (("countdown", 4000), ("chain", 8000)):
        compare(task, Budget({"tokens": cap}))
    tree()
    show.console.print(
        f"\n{time.perf_counter() - began:.0f} s in all. Next: forethought solve --task countdown --problem 3"
    )


def compare(task: str, budget: Budget) -> None:
    """The same problems for all, under the same cap on tokens, the verifier's included."""
    kind = generated_task(task)
    by = By(model_named("reasoner"), kind, verifiers.parse("process"))
    problems = [kind.problem(kind.middle, index) for index in range(PROBLEMS)]
    spellings = dict.fromkeys(method for method, _ in CONTENDERS)
    rules = dict.fromkeys(rule for _, rule in CONTENDERS)
    bench = Bench(by, problems, [methods.parse(m) for m in spellings], [selections.parse(r) for r in rules], budget)
    with tempfile.TemporaryDirectory() as folder:
        rows = anyio.run(measured, bench, Path(folder))
    wanted = {(repr(methods.parse(m)), repr(selections.parse(s))) for m, s in CONTENDERS}
    shown = [row for row in rows if (row["method"], row["selection"]) in wanted]
    title = f"{task}, difficulty {kind.middle}: {PROBLEMS} problems, {budget} a problem"
    show.console.print(show.bench_table(shown, title))
    show.console.print()


def tree() -> None:
    kind = generated_task("countdown")
    by = By(model_named("reasoner"), kind, verifiers.parse("process"))
    problem = kind.problem(kind.middle, 5)
    method = methods.parse(TREE)
    parts = Parts(by, method, selections.parse("best"), Budget({"tokens": 4000}))
    made = anyio.run(populate, parts, problem, parts.run(0, MemoryTrace()))
    right = {p.state.text: kind.correct(kind.answer(p.state.text, problem) or "", problem) for p in made.population}
    show.console.print(
        show.tree(made.population, by, f"{problem.text.strip()}   ({method}; grades of the reward model)", right)
    )
