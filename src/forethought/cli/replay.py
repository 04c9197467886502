"""`forethought replay`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forethought.bench.recorded import grade_named, read
from forethought.bench.replay import Order, Replay, Tallied, replay
from forethought.cli import show
from forethought.cli.paths import write
from forethought.core.errors import UsageError

COLUMNS = ("n", "accuracy", "95%", "drawn", "tokens", "pass@n", "ECE", "Brier", "AUC", "problems")


def run_replay(
    file: Path,
    select: Sequence[str],
    method: Sequence[str],
    n: str | None,
    order: str,
    grade: str | None,
    fit: Path | None,
    out: Path | None,
) -> None:
    if order not in ("given", "shuffled"):
        raise UsageError(f"the order is given or shuffled, not {order}")
    kind: Order = "given" if order == "given" else "shuffled"
    problems = read(file)
    train = read(fit) if fit else []
    asked = Replay(problems, grade_named([*problems, *train], grade), kind, train)
    rules = select or ([] if method else ["majority"])
    found = replay(asked, list(dict.fromkeys(rules)), list(dict.fromkeys(method)), sizes_of(n))
    if out is not None:
        write(out, json.dumps([row for row, _ in found], indent=2) + "\n")
    show.console.print(f"{file}, {order} order", markup=False, highlight=False)
    for rule in dict.fromkeys(row["method"] or row["select"] for row, _ in found):
        rows = [cells(row, made) for row, made in found if rule == (row["method"] or row["select"])]
        show.console.print(show.table(COLUMNS, rows, f"\n{rule}"))
        for row, _ in found:
            if row["fitted"] and row["select"] == rule:  # a line of its own, to be copied whole
                show.console.print(
                    f"n={row['n']}, fitted: {row['fitted']}", markup=False, highlight=False, soft_wrap=True
                )


def sizes_of(text: str | None) -> list[int] | None:
    """Read `1,2,4`."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
        raise UsageError(f"cannot read --n {text}: write whole numbers from 1 on, as 1,2,4,8")
    return list(dict.fromkeys(map(int, parts)))


def cells(row: dict[str, Any], made: Tallied) -> Sequence[str]:
    spent = row["mean_new_tokens"]
    return (
        str(row["n"]),
        f"{row['accuracy']:.1%}",
        f"{row['low']:.0%}-{row['high']:.0%}",
        f"{row['mean_samples']:.4g}",
        "-" if spent is None else f"{spent:,.0f}",
        f"{row['coverage']:.1%}",
        *("-" if math.isnan(value) else f"{value:.3f}" for value in made.calibration),
        str(row["problems"]),
    )
