"""`forethought bench`."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from forethought.assembly import budget_of, by_of, failures_of
from forethought.bench.run import Bench, open_store, ready, run
from forethought.cli import show
from forethought.cli.paths import write
from forethought.core.errors import ForethoughtError
from forethought.core.registry import Registry
from forethought.core.store import RunStore
from forethought.methods import Method, methods
from forethought.models.protocol import Model
from forethought.selection import selections
from forethought.solving import other_weights
from forethought.tasks import generated_task

T = TypeVar("T")


def progress() -> Progress:
    """A bar a method, on standard error, so that --json stays clean."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    from rich.console import Console

    return Progress(*columns, console=Console(stderr=True))


def run_bench(
    task: str,
    method: Sequence[str],
    out: Path,
    select: Sequence[str],
    difficulty: int | None,
    limit: int,
    verifier: str | None,
    model: Model,
    budget: str | None,
    seed: int,
    failures: str,
    json_: bool,
) -> None:
    kind = generated_task(task)
    programs, rules = distinct(methods, method), distinct(selections, select)
    by = by_of(model, kind, verifier, [*programs, *rules])
    level = kind.middle if difficulty is None else difficulty
    problems = [kind.problem(level, index) for index in range(limit)]
    bench = Bench(by, problems, programs, rules, budget_of(budget), seed, failures_of(failures))
    rows = anyio.run(measured, bench, out)
    write(out / "summary.json", json.dumps({"rows": rows}, indent=2) + "\n")
    if json_:
        show.console.print_json(data={"rows": rows})
    else:
        show.console.print(
            show.bench_table(rows, f"{task}, difficulty {level}, {limit} problems, budget {bench.budget}")
        )
        show.console.print(f"recorded in {out}/run.sqlite and {out}/summary.json")
    check_measured(rows)


def distinct(parts: Registry[T], spellings: Sequence[str]) -> list[T]:
    """The parts of these spellings, each once, however often and in whatever words it was asked for."""
    return list(dict.fromkeys(map(parts.parse, spellings)))


def check_measured(rows: Sequence[Mapping[str, Any]]) -> None:
    """A row all of whose problems failed measures nothing. Raises ForethoughtError with the last reason."""
    for row in rows:
        if row["failures"] == row["problems"]:
            which = f"all {row['problems']} problems of {show.short(row['method'])}"
            raise ForethoughtError(f"{which} failed; the last: {row['error']}")


async def measured(bench: Bench, out: Path) -> list[dict[str, object]]:
    """Run a bench in its folder. What cannot work is refused before there is a store, or a bar."""
    await ready(bench)
    gc.freeze()  # what is loaded stays: the collector would look at a quarter of a million objects again and again
    with open_store(out) as store:
        before = {row.id for row in store.runs() if row.status == "done"}
        rows = await shown(bench, store)
        first = bench.begin(bench.methods[0], 0, store)
        for line in [] if first.id in before else other_weights(store, first):
            sys.stderr.write(f"forethought: {line}\n")
    return rows


async def shown(bench: Bench, store: RunStore) -> list[dict[str, object]]:
    """The rows of a bench, with a progress bar a method."""
    with progress() as bars:
        ids = {repr(m): bars.add_task(show.short(repr(m)), total=len(bench.problems)) for m in bench.methods}

        def done(method: Method) -> None:
            bars.advance(ids[repr(method)])

        return await run(bench, store, done)
