"""Measure the claims of the papers on the shipped reasoner and write docs/claims.md: python benchmarks/claims.py

A run that is cut off goes on where it was. `--choose` chooses the settings on the train split first and freezes them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _claims import page
from _claims.claim import Claim
from _claims.claims import CLAIMS
from _claims.curves import Curve
from _claims.ladders import FROZEN, LADDERS, Choice, Ladder, choice_of, frozen
from _claims.records import AXES, Job, cpu_seconds, done, jobs, missing, run_all
from _common import RESULTS, ROOT, cpu_model, reasoner_weights
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from forethought.tasks import GENERATED

STORE = ROOT / "build" / "claims"
# As many of each family as an hour on two cores allows: a procedure takes three times as long as a chain, and a chain four
# times as long as a countdown.
PROBLEMS = {"chain": 100, "chain-checked": 220, "countdown": 175, "procedure": 26}
TRAIN = {family: count // 2 for family, count in PROBLEMS.items()}  # the same mixture, in a third of the time
Wanted = Mapping[Ladder, Choice]


def ladders_of(
    claims: Sequence[Claim], chosen: Mapping[str, Choice], every: bool = False
) -> tuple[Wanted, dict[str, str]]:
    """The ladders that some claims read, and why others of them cannot be run. `every`: all selections that compete."""
    names = dict.fromkeys(name for claim in claims for name in claim.ladders)
    selects = {n: LADDERS[n].select if every else (chosen[n].select,) for n in names}
    why = {n: w for n in names if (w := missing(LADDERS[n], chosen[n], selects[n])) is not None}
    return {LADDERS[n]: chosen[n] for n in names if n not in why}, why


def measured(todo: Sequence[Job], store: Path, workers: int) -> None:
    """Do the jobs with a progress bar over their problems; a job that failed ends the run, after all others are done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("jobs", total=len(todo))
        failed = list(run_all(todo, store, workers, lambda job: bars.advance(bar)))
    for job, error in failed:
        sys.stderr.write(f"{job.task}, {job.method}: {type(error).__name__}: {error}\n")
    if failed:
        raise typer.Exit(1)


def curve(ladder: Ladder, choice: Choice, store: Path, todo: Sequence[Job], select: str | None = None) -> Curve:
    """What the store has of a ladder."""
    select = select or choice.select
    rows: list[list[dict[str, float]]] = []
    drafts: list[Any] = []
    families: dict[str, int] = {}
    for size in ladder.sizes:
        spelling = ladder.runs(choice.temperature)[0] if ladder.sampled else ladder.method(size, choice.temperature)
        by_task = {task: records(ladder, spelling, task, store, todo) for task in ladder.tasks}
        families = {task: len(found) for task, found in by_task.items()}
        found = [one for some in by_task.values() for one in some]
        rows.append([one["reads"][str(size if ladder.sampled else 0)][select] for one in found])
        drafts = [one["drafts"] for one in found]
    credit = np.array([[entry["credit"] for entry in row] for row in rows])
    cost = {axis: np.array([[entry[axis] for entry in row] for row in rows]) for axis in AXES}
    return Curve(ladder.name, families, credit, cost, drafts)


def records(ladder: Ladder, spelling: str, task: str, store: Path, todo: Sequence[Job]) -> list[dict[str, Any]]:
    beginnings = ladder.sizes if ladder.sampled else ()
    place = (task, spelling, ladder.verifier, beginnings)
    (job,) = (j for j in todo if (j.task, j.method, j.verifier, j.beginnings) == place)
    found = done(job, store)
    assert found is not None, f"{job} is not done"
    return found


def middle(ladder: Ladder) -> Ladder:
    """The ladder with nothing but its middle size."""
    return Ladder(**{**vars(ladder), "sizes": (ladder.sizes[len(ladder.sizes) // 2],)})


def small(ladder: Ladder) -> Ladder:
    """The ladder with two sizes, on the family of the shortest drafts."""
    return Ladder(**{**vars(ladder), "sizes": ladder.sizes[:2], "tasks": ("countdown",)})


def counted(count: int | None, usual: Mapping[str, int]) -> Mapping[str, int]:
    """How many problems of each family."""
    return usual if count is None else dict.fromkeys(GENERATED, count)


def choose(claims: Sequence[Claim], store: Path, workers: int, problems: Mapping[str, int], path: Path) -> None:
    """For every ladder the temperature and selection of the best mean accuracy on the train split at its middle size."""
    ladders, _ = ladders_of(claims, {name: choice_of(ladder, {}) for name, ladder in LADDERS.items()}, every=True)
    open_ = [ladder for ladder in ladders if not ladder.fixed]
    tried = {
        t: {middle(ladder): Choice(t) for ladder in open_ if t in ladder.temperatures}
        for t in sorted({t for ladder in open_ for t in ladder.temperatures})
    }
    todo = {job: None for wanted in tried.values() for job in jobs(wanted, problems, "train", every=True)}
    measured(list(todo), store, workers)
    scores: dict[str, dict[tuple[float, str], float]] = {}
    for t, wanted in tried.items():
        plan = jobs(wanted, problems, "train", every=True)
        for ladder, choice in wanted.items():
            for select in ladder.select:
                accuracy = float(curve(ladder, choice, store, plan, select).credit.mean())
                scores.setdefault(ladder.name, {})[t, select] = accuracy
    kept = json.loads(path.read_text())["chosen"] if path.exists() else {}
    best = {name: max(found, key=lambda place: found[place]) for name, found in scores.items()}
    chosen = {n: {"temperature": t, "select": s, "accuracy": scores[n][t, s]} for n, (t, s) in best.items()}
    mixture = ", ".join(f"{problems[task]} of {task}" for task in dict.fromkeys(job.task for job in todo))
    how = f"best mean accuracy at the middle size over train problems ({mixture}); ties to the lower temperature"
    told = {"how": how, "weights": reasoner_weights(), "chosen": {**kept, **chosen}}
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def main(
    only: Annotated[list[str] | None, typer.Option(help="Measure this claim only; may be repeated.")] = None,
    quick: Annotated[
        bool, typer.Option(help="Two problems of one family, two sizes: shows that all runs, measures no claim.")
    ] = False,
    choosing: Annotated[
        bool, typer.Option("--choose", help="Choose the settings on the train split and freeze them.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes, each with one core; 0: this one alone.")] = 2,
    problems: Annotated[int | None, typer.Option(help="Problems of every family.", show_default=str(PROBLEMS))] = None,
    settings: Annotated[Path, typer.Option(help="Where the frozen settings are.")] = FROZEN,
    store: Annotated[Path, typer.Option(help="Where the runs are kept.")] = STORE,
    out: Annotated[Path, typer.Option(help="The page.")] = ROOT / "docs" / "claims.md",
    result: Annotated[Path, typer.Option("--json", help="Where the numbers go.")] = RESULTS / "claims.json",
) -> None:
    """Measure the claims of the papers on the shipped reasoner."""
    known = {claim.name: claim for claim in CLAIMS}
    for name in set(only or ()) - set(known):
        raise typer.BadParameter(f"there is no claim '{name}'; there are {', '.join(known)}")
    claims = [known[name] for name in only] if only else list(CLAIMS)
    if choosing:
        choose(claims, store, workers, counted(problems, TRAIN), settings)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted, why = ladders_of(claims, frozen(settings))
    if quick:
        wanted, problems = {small(ladder): choice for ladder, choice in wanted.items()}, 2
    counts = counted(problems, PROBLEMS)
    todo = jobs(wanted, counts)
    measured(todo, store, workers)
    curves = {ladder.name: curve(ladder, choice, store, todo) for ladder, choice in wanted.items()}
    nothing = "two problems measure nothing" if quick else None
    found = [page.judged(c, curves, next((why[name] for name in c.ladders if name in why), nothing)) for c in claims]
    sizes = {ladder.name: ladder.sizes for ladder in wanted}
    families = {task: counts[task] for ladder in wanted for task in ladder.tasks}
    told = {
        "problems": sum(families.values()),
        "families": ", ".join(f"{count} of {task} {GENERATED[task].middle}" for task, count in families.items()),
        "cpu_minutes": sum(cpu_seconds(job, store) for job in todo) / 60,
        "machine": f"{cpu_model()}, {workers or 1} processes",
        "weights": reasoner_weights(),
    }
    page.write(found, curves, {ladder.name: choice for ladder, choice in wanted.items()}, sizes, out, told)
    page.as_json(found, curves, sizes, told, result)
    for each in found:
        Console(width=120).print(
            f"{each.claim.name}: {each.verdict}" + (f" ({each.why})" if each.why else ""), style=None
        )


if __name__ == "__main__":
    typer.run(main)
