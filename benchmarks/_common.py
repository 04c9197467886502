"""What all benchmarks share: repetitions in turn, the table, the description of the machine, files of what is done."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from forethought.reasoner.loader import folder

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
REPETITIONS = 7
WIDTH = 120
PACKAGES = ("forethought", "torch", "numpy", "anyio", "httpx2")


@dataclass(frozen=True, slots=True)
class Measured:
    """One quantity over all repetitions. `target` is the most that its median should be; None where none is set."""

    name: str
    unit: str
    values: Sequence[float]
    target: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        return None if self.target is None else self.median <= self.target

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "low": min(self.values),
            "high": max(self.values),
            "repetitions": len(self.values),
            "target": self.target,
            "met": self.met,
        }


def interleaved(cases: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, list[float]]:
    """What every case gives, the cases in turn and every other round backwards, so that a slow spell hits all alike.

    A first round warms up and does not count.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(repetitions + 1):
        for name in list(cases)[:: -1 if turn % 2 else 1]:
            value = cases[name]()
            if turn:
                found[name].append(value)
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, so that what slows both down cancels."""
    return [a / b for a, b in zip(above, below, strict=True)]


def machine() -> dict[str, Any]:
    """What the numbers depend on. `load` is what else was running: numbers taken above 0.5 or so are rough."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := installed(name))},
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; where there is none, what `make` gives, which is stored there, whole or not at all."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(make()) + "\n")
        part.rename(path)
    return json.loads(path.read_text())


@functools.cache
def reasoner_weights() -> str:
    """What both embedded models are, by their bytes."""
    files = (folder("generator") / "model.safetensors", folder("reward") / "model.safetensors")
    return hashlib.blake2b(b"".join(file.read_bytes() for file in files), digest_size=8).hexdigest()


def options(doc: str, repetitions: int = REPETITIONS) -> argparse.ArgumentParser:
    """The options of every benchmark; its first line of documentation is its help."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes (default: benchmarks/results)")
    parser.add_argument("--repetitions", type=int, default=repetitions, metavar="N", help=f"default {repetitions}")
    return parser


def report(name: str, measured: Sequence[Measured], before: Mapping[str, Any], path: Path | None) -> None:
    """Print the table and save it with `before`, the machine as it was when the measurement began."""
    Console(width=WIDTH).print(table(name, measured))
    path = path or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {"benchmark": name, "machine": before, "results": [m.as_json() for m in measured]}
    path.write_text(json.dumps(saved, indent=2) + "\n")


def table(name: str, measured: Sequence[Measured]) -> Table:
    shown = Table("", "median", "low", "high", "n", "target", title=name)
    for m in measured:
        numbers = (f"{value:.4g} {m.unit}".strip() for value in (m.median, min(m.values), max(m.values)))
        shown.add_row(m.name, *numbers, str(len(m.values)), target(m))
    return shown


def target(m: Measured) -> str:
    if m.target is None:
        return "none set"
    return f"<= {m.target:g} {m.unit}".strip() + (": met" if m.met else ": MISSED")
