"""its-hub's and treequest's methods beside ours, on the same model, verifier and problems: python benchmarks/peers.py

The peers live in a virtual environment of their own, which is made on the first run and sees this one's packages behind
its own; the run goes on in it. Seeds are fixed; both sides solve the same problems side by side in one process. A run that
is cut off goes on where it was: each method on each family is kept once it is done.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
import venv
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
import typer
from _common import RESULTS, ROOT, interleaved, kept, machine, ratios, reasoner_weights
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from forethought.assembly import by_of
from forethought.bench.stats import interval
from forethought.core.budget import Budget
from forethought.core.cost import Cost
from forethought.core.problem import Problem
from forethought.core.scope import Seeded
from forethought.core.trace import MemoryTrace
from forethought.methods import By, methods
from forethought.models.names import model_named
from forethought.selection import selections
from forethought.solving import Parts, populate
from forethought.tasks import GENERATED
from forethought.tasks.generated import GeneratedTask
from forethought.verifiers.process import reward_model

PINS = ("its-hub[lm]==1.2.0", "treequest==0.3.3")
# As many of each family as half an hour allows, in whole turns of AT_ONCE.
PROBLEMS = {"chain": 75, "countdown": 125, "procedure": 25}
TOKENS = 16_000  # our cap a problem, the house's default
AT_ONCE = 25  # problems side by side, on both sides
TEMPERATURE = 0.8
COUNTS = ("calls", "new_tokens", "verifier_calls", "verifier_tokens")
SIDES = ("ours", "theirs")
MARGIN, OVERHEAD, WALL = -0.02, 0.7, 1.05


def settle(home: Path) -> None:
    """Go on in the environment that has the peers; make it if it is not there."""
    if importlib.util.find_spec("its_hub") and importlib.util.find_spec("treequest"):
        return
    python = home / "bin" / "python"
    if not list(
        home.glob("lib/python*/site-packages/ours.pth")
    ):  # written last: an environment without it is half made
        venv.create(home, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PINS], check=True)
        ours = [path for path in sys.path if path.endswith("site-packages")]
        (folder,) = (home / "lib").glob("python*/site-packages")
        (folder / "ours.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in ours))
    os.execv(python, [str(python), *sys.argv])


@dataclass(frozen=True)
class Solved:
    """One problem solved by one side."""

    credit: float
    cost: Cost

    def as_json(self) -> dict[str, float]:
        entries = (*COUNTS, "tokens")
        return {"credit": self.credit, **{entry: getattr(self.cost, entry) for entry in entries}}


Solve = Callable[[By, Problem, int], Awaitable[Solved]]


async def ours(name: str, n: int, by: By, problem: Problem, seed: int) -> Solved:
    from _peers.ours import spelled

    method, select = (part for part in spelled(name, n, TEMPERATURE))
    parts = Parts(by, methods.parse(method), selections.parse(select), Budget({"tokens": TOKENS}))
    made = await populate(parts, problem, parts.run(seed, MemoryTrace()))
    verdict = await made.select(parts.selection, by, problem)
    right = [bool(by.task.correct(answer, problem)) for answer in verdict.leading]
    return Solved(sum(right) / len(right) if right else 0.0, made.at.cost())


async def theirs(name: str, n: int, by: By, problem: Problem, seed: int) -> Solved:
    from _peers.session import Counted
    from _peers.theirs import THEIRS

    session = Counted(by, problem, seed, TEMPERATURE)
    read = lambda text: by.task.answer(text, problem)  # noqa: E731
    answer = read(await THEIRS[name](session, n, by.task.max_steps, TEMPERATURE, read))
    return Solved(float(answer is not None and bool(by.task.correct(answer, problem))), session.spent)


async def together(solve: Solve, by: By, problems: Sequence[Problem], first: int) -> tuple[list[Solved], float]:
    """Solve problems side by side; the results and the seconds that all took."""
    solved: list[Solved | None] = [None] * len(problems)
    start = time.perf_counter()

    async def one(index: int) -> None:
        solved[index] = await solve(by, problems[index], Seeded(0).seed((first + index,)))

    async with anyio.create_task_group() as tasks:
        for index in range(len(problems)):
            tasks.start_soon(one, index)
    return [s for s in solved if s is not None], time.perf_counter() - start


def paired(name: str, n: int, task: GeneratedTask, count: int, done: Callable[[int], None]) -> dict[str, Any]:
    """Both sides on the problems of a family, in turns of AT_ONCE whose order alternates. Each turn of a side has models of
    its own, or whoever comes second finds in their prefix trees what the first has read.
    """
    problems = [task.problem(task.middle, index) for index in range(count)]
    sides: dict[str, Solve] = {"ours": partial(ours, name, n), "theirs": partial(theirs, name, n)}

    def fresh(solve: Solve) -> By:
        model_named.cache_clear()
        reward_model.cache_clear()
        by = by_of("reasoner", task, "process", [methods.parse("beam")])
        anyio.run(together, solve, by, [task.problem(task.middle, count)], count)  # models load
        return by

    for solve in sides.values():
        fresh(solve)
    gc.freeze()  # as the command line does: litellm's and torch's objects are looked at in neither side's time
    solved: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    seconds = dict.fromkeys(sides, 0.0)
    for turn, first in enumerate(range(0, count, AT_ONCE)):
        part = problems[first : first + AT_ONCE]
        for side in list(sides)[:: -1 if turn % 2 else 1]:
            by = fresh(sides[side])
            random.seed(first)
            np.random.seed(first)  # noqa: NPY002, the peers draw from the global generators
            gc.collect()  # what went before is nobody's time
            found, took = anyio.run(together, sides[side], by, part, first)
            solved[side] += [one.as_json() for one in found]
            seconds[side] += took
        done(len(part))
    return {"solved": solved, "seconds": seconds}


def file(*place: object) -> str:
    """The name of what is found at a place, by all that it depends on."""
    told = json.dumps([*place, PINS, TOKENS, TEMPERATURE, AT_ONCE, reasoner_weights()])
    return f"{blake2b(told.encode(), digest_size=12).hexdigest()}.json"


def row(name: str, n: int, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What both sides did on all families, and their difference with its interval."""
    credit = {side: [s["credit"] for one in found for s in one["solved"][side]] for side in SIDES}
    low, high = interval([a - b for a, b in zip(credit["ours"], credit["theirs"], strict=True)])
    told: dict[str, Any] = {"method": name, "stated budget": n, "problems": len(credit["ours"])}
    for side in SIDES:
        costs = [s for one in found for s in one["solved"][side]]
        seconds = sum(one["seconds"][side] for one in found)
        mean = {entry: float(np.mean([c[entry] for c in costs])) for entry in COUNTS}
        most = max(c["tokens"] for c in costs)
        accuracy = float(np.mean(credit[side]))
        told[side] = {
            "accuracy": accuracy,
            "interval": interval(credit[side]),
            **mean,
            "most tokens": most,
            "seconds": seconds,
        }
    told["difference"] = {"value": told["ours"]["accuracy"] - told["theirs"]["accuracy"], "low": low, "high": high}
    told["wall"] = told["ours"]["seconds"] / told["theirs"]["seconds"]
    told["calls beyond the stated budget"] = told["theirs"]["calls"] - n
    told["checks"] = {
        "interval not wholly below -2 points": high >= MARGIN,
        "wall <= 1.05": told["wall"] <= WALL,
        "within our budget": told["ours"]["most tokens"] <= TOKENS,
    }
    return told


def overheads(names: Sequence[str], repetitions: int) -> list[dict[str, Any]]:
    """Microseconds a call with a model that answers at once, in turns."""
    from _peers.overhead import STEPS, N, cases

    times = interleaved(cases(list(names)), repetitions)
    rows = []
    for name in names:
        mine, other = times[f"ours, {name}"], times[f"theirs, {name}"]
        ratio = float(np.median(ratios(mine, other)))
        rows.append(
            {"method": name, "n": N, "steps": STEPS, "ours": float(np.median(mine)), "theirs": float(np.median(other)),
             "ratio": ratio, "met": ratio <= OVERHEAD}
        )  # fmt: skip
    return rows


def show(rows: Sequence[dict[str, Any]], zero: Sequence[dict[str, Any]]) -> None:
    heads = (
        "",
        "accuracy",
        "difference, 95 %",
        "tokens (new + verifier)",
        "calls + verifier's",
        "their calls beyond n",
    )
    table = Table(*heads, "seconds", "", title="ours / theirs, with 95 % intervals")
    for r in rows:
        a, b, d = r["ours"], r["theirs"], r["difference"]
        table.add_row(
            r["method"],
            " / ".join(f"{s['accuracy']:.1%} ({s['interval'][0]:.1%} to {s['interval'][1]:.1%})" for s in (a, b)),
            f"{100 * d['value']:+.1f} ({100 * d['low']:+.1f} to {100 * d['high']:+.1f})",
            " / ".join(f"{s['new_tokens'] + s['verifier_tokens']:,.0f}" for s in (a, b)),
            " / ".join(f"{s['calls']:.0f}+{s['verifier_calls']:.0f}" for s in (a, b)),
            f"{r['calls beyond the stated budget']:+.0f}",
            f"{a['seconds']:.0f} / {b['seconds']:.0f} ({r['wall']:.2f}x)",
            "; ".join(f"MISSED: {name}" for name, met in r["checks"].items() if not met),
        )
    fast = Table(
        "", "ours", "theirs", "ratio", f"<= {OVERHEAD}", title="microseconds a call with a model that answers at once"
    )
    for z in zero:
        times = (f"{z[side]:.0f} us" for side in ("ours", "theirs"))
        fast.add_row(z["method"], *times, f"{z['ratio']:.2f}", "met" if z["met"] else "MISSED")
    for each in (table, fast):
        Console(width=150).print(each)


def main(
    n: Annotated[int, typer.Option(help="The stated budget of every method.")] = 16,
    problems: Annotated[int | None, typer.Option(help="Problems a family.", show_default=str(PROBLEMS))] = None,
    only: Annotated[list[str] | None, typer.Option(help="This method only; may be repeated.")] = None,
    repetitions: Annotated[int, typer.Option(help="Rounds of the runs without latency.")] = 7,
    home: Annotated[Path, typer.Option(help="The environment of the peers.")] = ROOT / "build" / "peers",
    store: Annotated[Path, typer.Option(help="Where what is done is kept.")] = ROOT / "build" / "peers-done",
    result: Annotated[Path, typer.Option("--json", help="Where the numbers go.")] = RESULTS / "peers.json",
) -> None:
    """its-hub's and treequest's methods beside ours."""
    settle(home)
    from _peers.ours import OURS

    for name in set(only or ()) - set(OURS):
        raise typer.BadParameter(f"there is no method '{name}'; there are {', '.join(OURS)}")
    names, before, rows = only or list(OURS), machine(), []
    counts = {family: problems or count for family, count in PROBLEMS.items()}
    zero = overheads(names, repetitions)
    with Progress(console=Console(stderr=True)) as bars:
        for name in names:
            bar = bars.add_task(name, total=sum(counts.values()))
            found = []
            for family, count in counts.items():
                tell = partial(bars.advance, bar)
                measure = partial(paired, name, n, GENERATED[family], count, tell)
                found.append(kept(store / file(name, n, family, count), measure))
                bars.update(bar, completed=sum(len(one["solved"]["ours"]) for one in found))
            rows.append(row(name, n, found))
    show(rows, zero)
    result.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": before, "pins": PINS, "budget of ours": TOKENS, "temperature": TEMPERATURE}
    result.write_text(json.dumps({**told, "methods": rows, "without latency": zero}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
