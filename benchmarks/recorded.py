"""Reproduces published figures from recorded samples: python benchmarks/recorded.py FOLDER

FOLDER has somebody else's samples in the format of `forethought replay`: GPT-4 on the Game of 24 (Yao et al. 2023, Tree of
Thoughts, Table 2) and ten chains of thought a question at three temperatures (Renze and Guven 2024). Votes are counted twice
where ties matter: credit shared, as everywhere here, and given to the answer that was seen first, as some papers do.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from _common import RESULTS, machine
from rich.console import Console
from rich.table import Table as Shown

from forethought.bench.recorded import Recorded, Table, read
from forethought.bench.replay import Replay, replay, votes_on
from forethought.selection.basic import Majority

Figure = tuple[str, float, float, float]  # what, published, measured, how far they may be apart


def percent(problems: list[Recorded], rule: str, n: int, column: str = "accuracy") -> float:
    ((row, _),) = replay(Replay(problems, order="shuffled"), [rule], [], [n])
    return float(100 * row[column])


def first_seen(problems: list[Recorded], n: int) -> float:
    """Accuracy of the vote on the first n samples, where of equal answers the one seen first wins."""
    table = Table.of(problems, None)
    tally = Majority().tally(votes_on(table, table.start[:, None] + np.arange(n)))
    winner = tally.share.argmax(1)  # answers are numbered as they are first seen
    right = table.right[np.arange(len(problems)), winner] & tally.leading.any(1)
    return float(100 * right.mean())


def game_of_24(folder: Path) -> list[Figure]:
    found: list[Figure] = []
    io, cot = (read(folder / f"tot-game24-{name}.jsonl") for name in ("io", "cot"))
    found += [("Game of 24, IO, one sample", 7.3, percent(io, "first", 1), 0.05)]
    found += [("Game of 24, CoT, one sample", 4.0, percent(cot, "first", 1), 0.05)]
    found += [("Game of 24, CoT, vote of 100, first seen", 9.0, first_seen(cot, 100), 0.5)]
    found += [("Game of 24, CoT, vote of 100, ties shared", 9.0, percent(cot, "majority", 100), 0.5)]
    found += [("Game of 24, IO, best of 100 (pass@100)", 33.0, percent(io, "majority", 100, "coverage"), 0.05)]
    found += [("Game of 24, CoT, best of 100 (pass@100)", 49.0, percent(cot, "majority", 100, "coverage"), 0.05)]
    return found


def temperatures(folder: Path) -> list[Figure]:
    published = {"gpt-4": (81, 77, 77), "gpt-35-turbo": (58, 61, 61)}
    passed = {"gpt-35-turbo": (58, 89, 87)}
    found: list[Figure] = []
    for model, accuracies in published.items():
        for i, temperature in enumerate(("0.0", "0.5", "1.0")):
            problems = read(folder / f"temperature-{model}-T{temperature}.jsonl")
            name = f"{model}, T={temperature}"
            found.append((f"{name}, vote of 10, first seen", accuracies[i], first_seen(problems, 10), 0.05))
            found.append((f"{name}, vote of 10, ties shared", accuracies[i], percent(problems, "majority", 10), 1.0))
            if model in passed:
                pass10 = percent(problems, "majority", 10, "coverage")
                found.append((f"{name}, pass@10", passed[model][i], pass10, 0.05))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the recorded samples are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes (default: benchmarks/results)")
    asked = parser.parse_args()
    figures = game_of_24(asked.folder) + temperatures(asked.folder)
    shown = Shown("", "published", "measured", "", title="recorded samples, % of problems")
    for what, published, measured, apart in figures:
        shown.add_row(
            what, f"{published:g}", f"{measured:.2f}", "same" if abs(published - measured) <= apart else "DIFFERS"
        )
    Console(width=120).print(shown)
    path = asked.json or RESULTS / "recorded.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(("what", "published", "measured", "tolerance"), figure, strict=True)) for figure in figures]
    path.write_text(json.dumps({"benchmark": "recorded", "machine": machine(), "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
