"""The rounds of `engine.py`: measured in turn, saved one by one, and what they come to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from _common import Measured, ratios

WARM = 10.0  # seconds: a shorter first round warms up and is measured again; in a longer one it makes no difference
GOALS = {
    ("a", "transformers.generate"): 6.0, ("a", "llama.cpp,"): 3.0,
    ("b", "transformers.generate"): 2.0, ("b", "llama.cpp,"): 0.6,
    ("c", "transformers.generate"): 5.0, ("d", "transformers.generate"): 3.0, ("ceiling", "bare products"): 0.5,
}  # fmt: skip
FLAT, MOST = 1.15, 1.02  # a step without attention, longest over shortest; computed over unique tokens
LINEAR = 1.15  # what a branch or a new token costs, where there are many, over where there are few
Case = Callable[[int], float | dict[str, float]]  # does round `turn`: how much work it was, or figures of its own
Round = Callable[[int], dict[str, float]]  # the figures of round `turn`
Rounds = Mapping[str, Sequence[Mapping[str, float]]]


def measure(found: Mapping[str, Round], rounds: int, file: Path, before: Mapping[str, Any]) -> dict[str, Any]:
    """Round by round and contender by contender, every other round backwards. What the file has is not measured again."""
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"machine": before, "rounds": {}}
    warm = set[str]()
    for turn in range(rounds):
        for name in list(found)[:: -1 if turn % 2 else 1]:
            values = kept["rounds"].setdefault(name, [])
            if len(values) > turn:
                continue
            told = found[name](turn)
            if rounds > 1 and name not in warm and told["wall"] < WARM:
                told = found[name](turn)
            warm.add(name)
            values.append(told)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept, indent=2) + "\n")
    return kept


def once(which: str, case: Case, turn: int) -> dict[str, float]:
    """One round, with what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work = case(turn)
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if isinstance(work, dict):
        return work | spent
    return {"value": work / spent["wall"] if which == "c" else work} | spent


def results(which: str, rounds: Rounds) -> list[Measured]:
    """What a workload comes to: its figures, and how the engine compares with each of the others."""
    if which == "prefix":
        return _prefix(rounds)
    unit = {"e": "", "tokens": "s"}.get(which, "tokens/s")
    goal = MOST if which == "e" else None
    found = [Measured(name, unit, _of(told, "value"), goal) for name, told in rounds.items()]
    if which == "d":
        found += [
            Measured(f"{name}, seconds waited for a text", "s", _of(told, "waited")) for name, told in rounds.items()
        ]
    if further := {"scaling": _scaling, "tokens": _tokens}.get(which):
        return found + further(rounds)
    return found + _compared(which, rounds)


def _of(rounds: Sequence[Mapping[str, float]], figure: str) -> list[float]:
    return [told[figure] for told in rounds]


def _compared(which: str, rounds: Rounds) -> list[Measured]:
    """Ratios round by round, and of the whole where rounds are parts of one search."""
    found = list[Measured]()
    ours = [name for name in rounds if name.startswith(("forethought", "engine"))]
    for name in ours:
        for other in (name for name in rounds if name not in ours):
            goal = next(
                (f", goal {goal:g}" for (w, o), goal in GOALS.items() if w == which and other.startswith(o)), ""
            )
            mine, theirs = rounds[name], rounds[other]
            found.append(Measured(f"{name} / {other}{goal}", "", ratios(_of(mine, "value"), _of(theirs, "value"))))
            if which == "d":
                sooner = ratios(_of(theirs, "waited"), _of(mine, "waited"))
                found.append(Measured(f"seconds waited for a text, {other} / {name}", "", sooner))
            if which == "c":
                found.append(Measured(f"{name} / {other}, all rounds as one", "", [_rate(mine) / _rate(theirs)]))
    return found


def _rate(rounds: Sequence[Mapping[str, float]]) -> float:
    """Work a second over all rounds."""
    return sum(told["value"] * told["wall"] for told in rounds) / sum(_of(rounds, "wall"))


def _scaling(rounds: Rounds) -> list[Measured]:
    """What of the ceiling is reached, and how the cost of a token grows. `rounds` are named by a kind and the branches."""
    ours = [name for name in rounds if name.startswith("engine")]
    pairs = [(name, name.replace("engine", "bare products")) for name in ours]
    found = [Measured(f"{n} / {bare}", "", ratios(*(_of(rounds[x], "value") for x in (n, bare)))) for n, bare in pairs]
    few, many = ours[-3], ours[-1]
    dearer = ratios(_of(rounds[few], "value"), _of(rounds[many], "value"))
    return [*found, Measured(f"seconds a token: {many} / {few}", "", dearer, LINEAR)]


def _tokens(rounds: Rounds) -> list[Measured]:
    """How the seconds of a call grow: `rounds` are of three lengths, each twice the one before."""
    few, some, many = (_of(told, "value") for told in rounds.values())
    dearer = [(z - y) / (y - x) / 2 for x, y, z in zip(few, some, many, strict=True)]
    return [Measured("seconds a new token: second half / second quarter", "", dearer, LINEAR)]


def _prefix(rounds: Rounds) -> list[Measured]:
    """Steps with and without attention as the shared prefix grows. `rounds` are named by its length."""
    parts = ("step", "attention", "step without attention")
    found = [Measured(f"{part}, prefix of {n}", "ms", _of(told, part)) for part in parts for n, told in rounds.items()]
    rest = [median(_of(told, "step without attention")) for told in rounds.values()]
    found.append(Measured("step without attention: longest / shortest median", "", [max(rest) / min(rest)], FLAT))
    longer = int(list(rounds)[-1]) / int(next(iter(rounds)))
    first, *_, last = rounds.values()
    grown = ratios(_of(last, "attention"), _of(first, "attention"))
    return [*found, Measured(f"attention, where the prefix grows {longer:g}-fold", "", grown, longer)]


def plot(rounds: Rounds, file: Path) -> None:
    """Tokens a second over branches, with the ceiling."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for kind in ("engine", "bare products"):
        told = {int(n.rpartition(", ")[2]): _of(r, "value") for n, r in rounds.items() if n.startswith(kind)}
        middle, low, high = ([f(v) for v in told.values()] for f in (median, min, max))
        axes.loglog(list(told), middle, "o-", label=kind + (" (ceiling)" if kind != "engine" else ""))
        axes.fill_between(list(told), low, high, alpha=0.2)
    axes.set(xlabel="branches", ylabel="tokens/s")
    axes.legend()
    figure.savefig(file)
