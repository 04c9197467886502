"""`forethought export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio

from forethought.bench.export import chosen, exported
from forethought.cli.paths import default_store
from forethought.cli.runs import opened
from forethought.core.errors import UsageError


def run_export(run: str, number: int | None, method: str | None, out: Path | None) -> None:
    file = Path(run)
    if run.isdigit() and not file.exists():
        if number is not None:
            raise UsageError(f"give either run {run} or --run {number}, not both")
        file, number = default_store(), int(run)
    if file.is_dir():
        file = file / "run.sqlite"
    store = opened(file)
    lines = [json.dumps(anyio.run(exported, store, row)) + "\n" for row in chosen(store, number, method)]
    if out is None:
        sys.stdout.writelines(lines)
        return
    try:
        out.write_text("".join(lines))
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error}") from None
