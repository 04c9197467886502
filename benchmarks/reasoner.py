"""Measure the shipped models on the test split and write docs/reasoner.md: python benchmarks/reasoner.py

Everything the page says of the models comes from here: greedy accuracy by family and difficulty, pass@k, majority against one
sample, the reward model's area under the curve and calibration, and prefix match of procedures. Twenty minutes on two cores; a
run that is cut off goes on where it was.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
import typer
from _common import RESULTS, ROOT, kept, reasoner_weights
from numpy.typing import NDArray

from forethought.bench.stats import area_under_curve
from forethought.core.draft import Draft
from forethought.core.problem import Problem
from forethought.core.scope import Run, Scope, Seeded
from forethought.models.extend import extend
from forethought.models.names import model_named
from forethought.models.protocol import Request
from forethought.reasoner.loader import folder
from forethought.tasks import GENERATED
from forethought.tasks.generated import GeneratedTask
from forethought.verifiers.process import reward_model

DRAWS = 64


async def drafts(task: GeneratedTask, problems: list[Problem], each: int, temperature: float) -> list[list[Draft]]:
    """`each` finished or cut drafts a problem, from the embedded generator."""
    model, at = model_named("reasoner"), Scope.root(Run(Seeded(1)))
    places, made = at.fork(len(problems) * each), list[Draft | None]([None] * len(problems) * each)

    async def write(place: int) -> None:
        request = Request(task.prompt(problems[place // each]), max_tokens=task.draft_tokens, temperature=temperature)
        done = await extend(model, request, places[place])
        finish = "end" if done.finish == "end" else "length"
        made[place] = Draft(Draft(), done.text, done.tokens, (), done.cost.new_tokens, finish)

    async with anyio.create_task_group() as tasks:
        for place in range(len(made)):
            tasks.start_soon(write, place)
    return [[d for d in made[i : i + each] if d is not None] for i in range(0, len(made), each)]


def answers(task: GeneratedTask, problem: Problem, made: list[Draft]) -> list[str | None]:
    return [task.answer(d.text, problem) if d.finished else None for d in made]


def right(task: GeneratedTask, problem: Problem, made: list[Draft]) -> list[bool]:
    return [a is not None and bool(task.correct(a, problem)) for a in answers(task, problem, made)]


def greedy(task: GeneratedTask, difficulty: int, count: int) -> dict[str, float]:
    """Accuracy, and prefix match where the task has it."""
    problems = [task.problem(difficulty, i) for i in range(count)]
    made = anyio.run(drafts, task, problems, 1, 0.0)
    hits = [right(task, p, d)[0] for p, d in zip(problems, made, strict=True)]
    row = {"accuracy": sum(hits) / count}
    if hasattr(task, "prefix_match"):
        row["prefix_match"] = sum(task.prefix_match(d[0].text, p) for p, d in zip(problems, made, strict=True)) / count
    return row


def middle(accuracies: dict[int, dict[str, float]]) -> int | None:
    return next((d for d, row in accuracies.items() if 0.35 <= row["accuracy"] <= 0.65), None)


def pass_at(k: int, n: int, correct: int) -> float:
    """The unbiased estimator of Chen et al. 2021."""
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def coverage(task: GeneratedTask, difficulty: int, count: int) -> dict[str, float]:
    problems = [task.problem(difficulty, i) for i in range(count)]
    made = anyio.run(drafts, task, problems, DRAWS, 1.0)
    hits = [sum(right(task, p, d)) for p, d in zip(problems, made, strict=True)]
    return {str(k): float(np.mean([pass_at(k, DRAWS, c) for c in hits])) for k in (1, 2, 4, 8, 16, 32, 64)}


def power_law(coverage: dict[str, float]) -> dict[str, float]:
    """Least squares of log(-log pass@k) = log a - b log k (Brown et al. 2024, section 3): pass@k = exp(-a k^-b)."""
    k, rate = np.log([float(k) for k in coverage]), np.log(-np.log(np.array(list(coverage.values()))))
    slope, start = np.polyfit(k, rate, 1)
    left = rate - (start + slope * k)
    return {"a": float(np.exp(start)), "b": float(-slope), "r2": float(1 - left.var() / rate.var())}


def votes(task: GeneratedTask, difficulty: int, count: int, n: int = 16) -> dict[str, float]:
    """One sample against the majority of n, ties by equal shares."""
    problems = [task.problem(difficulty, i) for i in range(count)]
    made = anyio.run(drafts, task, problems, n, 1.0)
    one = np.mean([right(task, p, d)[0] for p, d in zip(problems, made, strict=True)])
    mean = np.mean([np.mean(right(task, p, d)) for p, d in zip(problems, made, strict=True)])
    credit = [share(task, p, answers(task, p, d)) for p, d in zip(problems, made, strict=True)]
    return {"one": float(one), "mean of 16": float(mean), "majority of 16": float(np.mean(credit))}


def share(task: GeneratedTask, problem: Problem, given: list[str | None]) -> float:
    read = [a for a in given if a is not None]
    if not read:
        return 0.0
    top = max(map(read.count, read))
    leading = {a for a in read if read.count(a) == top}
    return sum(bool(task.correct(a, problem)) for a in leading) / len(leading)


async def graded(
    task: GeneratedTask, problems: list[Problem], made: list[list[Draft]]
) -> list[tuple[int, float, bool]]:
    """Each step's number, its grade, and whether the draft was right so far."""
    model, found = reward_model(None), list[tuple[int, float, bool]]()

    async def grade(problem: Problem, draft: Draft) -> None:
        grade, _ = await model.grade(task.prompt(problem), draft, None)
        truth = task.right_so_far(draft.text, problem)
        found.extend((n, said, right) for n, (said, right) in enumerate(zip(grade.steps, truth, strict=False)))

    async with anyio.create_task_group() as tasks:
        for problem, drawn in zip(problems, made, strict=True):
            for draft in drawn:
                tasks.start_soon(grade, problem, draft)
    return found


def within(numbers: NDArray[np.int_], labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The mean area over step numbers, each by its pairs of a right and a wrong step: knowing how far a draft is helps not."""
    of = [(labels[numbers == n], scores[numbers == n]) for n in set(numbers.tolist())]
    both = [(right, said) for right, said in of if right.any() and not right.all()]
    areas = [area_under_curve(right, said) for right, said in both]
    return float(np.average(areas, weights=[int(right.sum() * (~right).sum()) for right, _ in both]))


def reward(task: GeneratedTask, difficulty: int, count: int) -> dict[str, Any]:
    problems = [task.problem(difficulty, i) for i in range(count)]
    found = anyio.run(graded, task, problems, anyio.run(drafts, task, problems, 1, 1.0))
    numbers, scores, labels = (np.array(column) for column in zip(*found, strict=True))
    bins = np.clip((scores * 10).astype(int), 0, 9)
    rows = [
        (int((bins == b).sum()), float(scores[bins == b].mean()), float(labels[bins == b].mean()))
        for b in set(bins.tolist())
    ]
    error = sum(n * abs(said - true) for n, said, true in rows) / len(scores)
    return {
        "steps": len(scores),
        "auc": area_under_curve(labels, scores),
        "auc within a step number": within(numbers, labels, scores),
        "ece": error,
        "brier": float(np.mean((scores - labels) ** 2)),
        "bins": sorted(rows, key=lambda row: row[1]),
    }


def measure(count: int, store: Path) -> dict[str, Any]:
    """All numbers; each table that is done is a file of `store`."""

    def of(name: str, make: Callable[[], Any]) -> Any:
        found = kept(store / f"{name}.json", make)
        sys.stderr.write(f"{name}: {json.dumps(found)[:120]}\n")
        return found

    found: dict[str, Any] = {"problems": count, "greedy": {}, "middle": {}, "pass@k": {}, "votes": {}, "reward": {}}
    for name, task in GENERATED.items():
        dial = {d: of(f"{name} {d}", partial(greedy, task, d, count)) for d in task.difficulties}
        at = middle(dial) or task.middle
        found["greedy"][name], found["middle"][name] = dial, at
        found["reward"][name] = of(f"reward {name} {at}", partial(reward, task, at, count))
    chain, countdown = GENERATED["chain"], GENERATED["countdown"]
    found["votes"]["chain"] = of("votes", partial(votes, chain, found["middle"]["chain"], count))
    found["pass@k"]["countdown"] = of("pass@k", partial(coverage, countdown, found["middle"]["countdown"], count))
    found["power law"] = power_law(found["pass@k"]["countdown"])
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def page(found: dict[str, Any]) -> str:
    """The tables of docs/reasoner.md."""
    levels = sorted({int(d) for rows in found["greedy"].values() for d in rows})
    percent = lambda rows, d, key: f"{rows[d][key]:.1%}" if d in rows and key in rows[d] else ""  # noqa: E731
    accuracy = [
        [
            str(d),
            *(percent(found["greedy"][t], d, "accuracy") for t in found["greedy"]),
            percent(found["greedy"]["procedure"], d, "prefix_match"),
        ]
        for d in levels
    ]
    middles = [[t, str(found["middle"][t]), *(f"{v:.1%}" for v in found["votes"][t].values())] for t in found["votes"]]
    rewards = [
        [
            t,
            str(found["middle"][t]),
            str(r["steps"]),
            f"{r['auc']:.3f}",
            f"{r['auc within a step number']:.3f}",
            f"{r['ece']:.3f}",
            f"{r['brier']:.3f}",
        ]
        for t, r in found["reward"].items()
    ]
    bins = [
        [t, str(n), f"{said:.2f}", f"{true:.2f}"] for t, r in found["reward"].items() for n, said, true in r["bins"]
    ]
    cover, law = found["pass@k"]["countdown"], found["power law"]
    return "\n".join(
        [
            f"## Greedy accuracy, test split, {found['problems']} problems a point\n",
            table(["difficulty", *found["greedy"], "procedure, prefix match"], accuracy),
            "## One sample and votes at the middle difficulty, temperature 1\n",
            table(["task", "middle", "one sample", "mean of 16", "majority of 16"], middles),
            f"## pass@k on countdown, difficulty {found['middle']['countdown']}, temperature 1, unbiased from 64 samples\n",
            table([f"pass@{k}" for k in cover], [[f"{v:.1%}" for v in cover.values()]]),
            f"pass@k = exp(-{law['a']:.2f} k^-{law['b']:.2f}) fits with R² {law['r2']:.3f}.\n",
            "## The reward model on the steps of one sample a problem, middle difficulty\n",
            table(["task", "difficulty", "steps", "AUC", "AUC within a step number", "ECE", "Brier"], rewards),
            "## Calibration of the reward model\n",
            table(["task", "steps", "said", "true"], bins),
        ]
    )


def main(
    problems: Annotated[int, typer.Option(help="Problems a point.")] = 500,
    result: Annotated[Path, typer.Option(help="Where the numbers go.")] = RESULTS / "reasoner.json",
) -> None:
    found = measure(problems, ROOT / "build" / "reasoner" / f"{reasoner_weights()}-{problems}")
    found["model"] = str(folder("generator").name)
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(found, indent=2) + "\n")
    doc = ROOT / "docs" / "reasoner.md"
    text = doc.read_text().split("<!-- measured -->")[0] if doc.exists() else "# The embedded models\n\n"
    doc.write_text(f"{text}<!-- measured -->\n\n{page(found)}")


if __name__ == "__main__":
    typer.run(main)
