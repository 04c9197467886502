"""`forethought export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from forethought.assembly import assemble, model_of
from forethought.bench.export import chosen, exported, rule_of
from forethought.cli.paths import default_store, write
from forethought.cli.runs import opened
from forethought.core.errors import UsageError
from forethought.core.store import RunRow
from forethought.parts import Parts
from forethought.tasks import task_named


def run_export(run: str, number: int | None, method: str | None, out: Path | None) -> None:
    file = Path(run)
    if run.isdigit() and not file.exists():
        if number is not None:
            raise UsageError(f"give either run {run} or --run {number}, not both")
        file, number = default_store(), int(run)
    with opened(file) as store:
        rows = chosen(store, number, method)
        lines = [json.dumps(anyio.run(exported, store, row, parts_of(row))) + "\n" for row in rows]
    if out is None:
        sys.stdout.writelines(lines)
        return
    write(out, "".join(lines))


def parts_of(row: RunRow) -> Parts:
    """The parts of a recorded run. In a bench drafts are not graded as they are drawn (see `assemble`)."""
    spec = row.spec
    select = rule_of(row) if spec["kind"] == "solve" else "first"
    model = model_of(spec["model"], spec.get("price"))
    return assemble(
        task_named(spec["task"]), model, spec["method"], spec["verifier"], select, spec["budget"], spec["failures"]
    )
