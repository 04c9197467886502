"""The command line. Every command is a thin face on a function of the rooms below."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from forethought.cli import show
from forethought.cli.errors import NO_ANSWER, Commands, one_line
from forethought.cli.paths import default_store

if TYPE_CHECKING:
    from forethought.core.problem import Problem
    from forethought.tasks.protocol import Task

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Better answers from a frozen model: sample, search, verify, vote, within a budget, with every token counted.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Model = Annotated[
    str | None,
    typer.Option(
        help="reasoner, smollm2, local:PATH or openai:MODEL@URL.", show_default="$FORETHOUGHT_MODEL or reasoner"
    ),
]
Price = Annotated[
    str | None,
    typer.Option(help="USD per million tokens of an endpoint, as prompt=0.15,new=0.6; for budgets in usd."),
]
KvMemory = Annotated[
    str | None,
    typer.Option(
        help="What a local model remembers of keys and values, as 512M or 2G; live requests have twice as much.",
        show_default="1G",
    ),
]
Verifier = Annotated[str | None, typer.Option(help="What grades drafts; see `forethought verifiers`.")]
BudgetText = Annotated[
    str | None,
    typer.Option("--budget", help="Limits, as tokens=2000,seconds=10.", show_default="tokens=16000,seconds=120"),
]
FailuresText = Annotated[
    str, typer.Option(help="A draft whose model fails: fail ends the run, drop leaves it out, counted.")
]
Seed = Annotated[int, typer.Option(help="The run's seed: the same seed, the same solution.")]


def print_json(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


@app.command()
def solve(
    text: Annotated[str | None, typer.Argument(help="The problem, as text.")] = None,
    task: Annotated[str | None, typer.Option(help="The kind of problem; see `forethought tasks`.")] = None,
    difficulty: Annotated[
        int | None, typer.Option(help="Of a generated problem.", show_default="the task's middle")
    ] = None,
    problem: Annotated[
        int | None, typer.Option(help="Which generated problem of the test split.", show_default="0")
    ] = None,
    model: Model = None,
    price: Price = None,
    kv_memory: KvMemory = None,
    method: Annotated[str, typer.Option(help="The program; see `forethought methods`.")] = "sample(n=16)",
    verifier: Verifier = None,
    select: Annotated[
        str | None,
        typer.Option(
            help="The rule; see `forethought selections`.", show_default="majority, or weighted with a verifier"
        ),
    ] = None,
    budget: BudgetText = None,
    seed: Seed = 0,
    failures: FailuresText = "fail",
    json_: Json = False,
    store: Annotated[
        Path | None, typer.Option(help="The file to record runs in.", show_default="in your state folder")
    ] = None,
) -> None:
    """Solve one problem; the same command again goes on with a run that was cut off."""
    from forethought.assembly import assemble, model_of
    from forethought.core.store import RunStore
    from forethought.solving import solve_with

    with one_line(lambda: "the same command"):
        kind, asked = chosen(text, task, difficulty, problem)
        parts = assemble(kind, model_of(model, price, kv_memory), method, verifier, select, budget, failures)
        with RunStore(store or default_store()) as runs_:
            found = anyio.run(solve_with, parts, asked, seed, runs_)
        if json_:
            print_json(found.as_json())
        else:
            show.console.print(show.solution(found))
        if found.answer is None:
            raise SystemExit(NO_ANSWER)


def chosen(text: str | None, task: str | None, difficulty: int | None, index: int | None) -> tuple[Task, Problem]:
    """A text of the user's, or a problem of a generated task."""
    from forethought.assembly import generated_problem, text_problem
    from forethought.core.errors import UsageError

    if text is not None and (difficulty is not None or index is not None):
        raise UsageError("give either a text, or --task with --difficulty and --problem, not both")
    if text is not None:
        return text_problem(text, task)
    if task is None:
        raise UsageError('there is no problem: write forethought solve "your text", or --task countdown')
    return generated_problem(task, difficulty, index or 0)


@app.command()
def bench(
    task: Annotated[str, typer.Option(help="A generated task.")],
    method: Annotated[list[str], typer.Option(help="Repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for run.sqlite and summary.json.")],
    select: Annotated[list[str] | None, typer.Option(help="Repeatable.", show_default="majority")] = None,
    difficulty: Annotated[int | None, typer.Option(show_default="the task's middle")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many problems of the test split.")] = 100,
    verifier: Verifier = None,
    model: Model = None,
    price: Price = None,
    kv_memory: KvMemory = None,
    budget: BudgetText = None,
    seed: Seed = 0,
    failures: FailuresText = "fail",
    json_: Json = False,
) -> None:
    """Measure methods and selections on a task. The same command again goes on where it was."""
    from forethought.assembly import model_of
    from forethought.cli.bench import run_bench

    with one_line(lambda: "the same command"):
        asked = model_of(model, price, kv_memory)
        rules = select or ["majority"]
        run_bench(task, method, out, rules, difficulty, limit, verifier, asked, budget, seed, failures, json_)


@app.command()
def demo() -> None:
    """Five methods on the same problems under the same cap, and one search as a tree."""
    from forethought.cli.demo import run_demo

    with one_line():
        run_demo()


@app.command()
def pull(name: Annotated[str, typer.Argument(help="smollm2")]) -> None:
    """Fetch a general model into your cache."""
    from forethought.core.errors import UsageError
    from forethought.models.pull import smollm2

    with one_line(lambda: f"forethought pull {name}"):
        if name != "smollm2":
            raise UsageError(f"there is nothing to pull named '{name}'; there is smollm2")
        path = smollm2()
        show.console.print(f'smollm2 is ready: {path}\ntry: forethought solve --model smollm2 "What is 17 + 25?"')


@app.command()
def runs(
    file: Annotated[
        Path | None, typer.Argument(help="A run store, or a bench folder.", show_default="your own store")
    ] = None,
    run: Annotated[int | None, typer.Option("--show", help="Show one run.")] = None,
    resume: Annotated[int | None, typer.Option(help="Go on with a run that was cut off.")] = None,
    json_: Json = False,
) -> None:
    """List, show or resume recorded runs."""
    from forethought.cli.runs import list_runs, resume_run, show_run
    from forethought.core.errors import UsageError

    path = file or default_store()
    with one_line(lambda: None if resume is None else f"forethought runs {path} --resume {resume}"):
        if run is not None and resume is not None:
            raise UsageError("give either --show or --resume, not both")
        if run is not None:
            show_run(path, run, json_)
        elif resume is not None:
            resume_run(path, resume, json_)
        else:
            list_runs(path, json_)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="Recorded samples: JSONL, a problem a line.")],
    select: Annotated[
        list[str] | None, typer.Option(help="A rule; repeatable.", show_default="majority, if no method is asked for")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="An adaptive sampling method, read by majority; repeatable.")
    ] = None,
    n: Annotated[str | None, typer.Option(help="How many samples, as 1,2,4,8.", show_default="powers of two")] = None,
    order: Annotated[str, typer.Option(help="given: the first n. shuffled: the mean over choices of n.")] = "given",
    grade: Annotated[str | None, typer.Option(help="Which grade to select by.", show_default="the only one")] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Recorded samples of other problems, for rules that have to be fitted.")
    ] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
) -> None:
    """Run selections and adaptive methods on recorded samples, with no model."""
    from forethought.cli.replay import run_replay

    with one_line():
        run_replay(file, select or [], method or [], n, order, grade, fit, json_)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run store, a bench folder, or the number of a run in your own store.")],
    number: Annotated[int | None, typer.Option("--run", help="Only this run of the store.")] = None,
    method: Annotated[str | None, typer.Option(help="Only the runs of this method.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write.", show_default="standard output")] = None,
) -> None:
    """Write the samples of recorded runs in the format that `replay` reads."""
    from forethought.cli.export import run_export

    with one_line():
        run_export(run, number, method, out)


def listing(rows: Sequence[Mapping[str, Any]], json_: bool, columns: Sequence[str]) -> None:
    if json_:
        print_json(rows)
    else:
        show.console.print(show.table(columns, [[show.cell(row[name]) for name in columns] for row in rows]))


@app.command()
def methods(json_: Json = False) -> None:
    """Programs from a problem to a population of drafts."""
    from forethought.cli.catalogue import method_rows

    listing(method_rows(), json_, ("spelling", "law", "needs", "summary"))


@app.command()
def selections(json_: Json = False) -> None:
    """Rules from a population to an answer."""
    from forethought.cli.catalogue import selection_rows

    listing(selection_rows(), json_, ("spelling", "needs", "summary"))


@app.command()
def verifiers(json_: Json = False) -> None:
    """What gives drafts grades."""
    from forethought.cli.catalogue import verifier_rows

    listing(verifier_rows(), json_, ("spelling", "process", "oracle", "summary"))


@app.command()
def tasks(json_: Json = False) -> None:
    """Kinds of problems."""
    from forethought.cli.catalogue import task_rows

    listing(task_rows(), json_, ("name", "difficulties", "middle", "summary"))


@app.command()
def models(json_: Json = False) -> None:
    """Where drafts come from."""
    from forethought.cli.catalogue import model_rows

    listing(model_rows(), json_, ("name", "ready", "summary"))
