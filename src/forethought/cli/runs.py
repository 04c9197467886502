"""`forethought runs`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from forethought.assembly import assemble, model_of
from forethought.cli import show
from forethought.cli.errors import NO_ANSWER
from forethought.core.budget import UNLIMITED
from forethought.core.errors import UsageError
from forethought.core.problem import Problem
from forethought.core.store import RunRow, RunStore
from forethought.parts import WEIGHTS, asked
from forethought.solving import Solution, solve_with
from forethought.tasks import task_named


def opened(path: Path) -> RunStore:
    """The run store that is there: a file, or the one in a bench's folder. Raises UsageError where there is none."""
    file = path / "run.sqlite" if path.is_dir() else path
    if not file.exists():
        raise UsageError(f"{file} is not there")
    return RunStore(file)


def as_row(row: RunRow) -> dict[str, Any]:
    outcome = row.outcome or {}
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.created))
    return {"run": row.id, "created": created, "status": row.status, **row.spec, "outcome": outcome}


def list_runs(file: Path, json_: bool) -> None:
    with opened(file) as store:
        rows = [as_row(row) for row in store.runs()]
    if json_:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return
    cells = [(r["run"], r["created"], r["status"], r["method"], r["name"] or r["problem"][:40].strip()) for r in rows]
    show.console.print(show.table(("run", "created", "status", "method", "problem"), cells))


def show_run(file: Path, run: int, json_: bool) -> None:
    with opened(file) as store:
        row, events = as_row(store.run(run)), store.events(run)
    if json_:
        told = [
            {"place": e.place, "kind": e.kind, "start": e.start, "cost": e.cost._asdict(), **e.data} for e in events
        ]
        sys.stdout.write(json.dumps(row | {"events": told}, indent=2) + "\n")
        return
    for name in ("run", "created", "status", "model", "method", "verifier", "selection", "budget", "seed", "problem"):
        show.console.print(f"[bold]{name}[/]: ", end="")
        show.console.print(str(row[name]).strip(), markup=False, highlight=False)
    cells = [
        (".".join(map(str, e.place)), e.kind, f"{e.start:.3f}", e.cost.tokens or "", in_words(e.data)) for e in events
    ]
    show.console.print(show.table(("place", "kind", "at s", "tokens", "what"), cells))


def in_words(data: Mapping[str, Any]) -> str:
    if "text" in data:
        return f"{data['text']!r} ({data['finish']})"
    return ", ".join(f"{name}={value}" for name, value in data.items() if name not in ("asked", "model"))


def check_same(run: int, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a run on other weights than its own, or that an earlier version wrote down in other words."""
    other = sorted(entry for entry in then.keys() | now.keys() if then.get(entry) != now.get(entry))
    if not other:
        return
    changed = any(entry in then and entry in now for entry in WEIGHTS if entry in other)
    told = ", ".join(name.replace("_", " ") for name in other)
    why = "the files of its model or verifier have changed since" if changed else f"it was recorded with other {told}"
    raise UsageError(f"run {run} cannot go on: {why}; begin a new run")


def resume_run(file: Path, run: int, json_: bool) -> None:
    """Go on with a run of `solve`; a bench is resumed by its own command."""
    with opened(file) as store:
        found = resumed(store, run)
    if json_:
        sys.stdout.write(json.dumps(found.as_json(), indent=2) + "\n")
    else:
        show.console.print(show.solution(found))
    if found.answer is None:
        raise SystemExit(NO_ANSWER)


def resumed(store: RunStore, run: int) -> Solution:
    spec = store.run(run).spec
    if spec["kind"] == "bench":
        raise UsageError(f"run {run} belongs to a bench: run the same bench command again")
    names = ("method", "verifier", "selection", "budget", "failures")
    model = model_of(spec["model"], spec.get("price"))
    told = {**spec, "budget": spec["budget"] or UNLIMITED}  # which an earlier version wrote as nothing
    parts = assemble(task_named(spec["task"]), model, *(told[name] for name in names))
    problem = Problem(spec["problem"], spec["reference"], spec["name"])
    check_same(run, spec, asked(parts, problem, spec["seed"], "solve"))
    return anyio.run(solve_with, parts, problem, spec["seed"], store)
