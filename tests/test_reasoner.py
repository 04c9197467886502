"""The embedded models are there, solve what they should, and grade what they read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from forethought.bench.run import Bench, open_store, run
from forethought.cli.app import app
from forethought.core.budget import Budget
from forethought.core.draft import Draft, Grade
from forethought.core.problem import Problem
from forethought.core.scope import Call, Run, Scope, Seeded
from forethought.methods import By, methods
from forethought.models.names import model_named
from forethought.reasoner.loader import folder
from forethought.reasoner.vocabulary import build
from forethought.selection import selections
from forethought.tasks import GENERATED, GeneratedTask
from forethought.verifiers import verifiers

pytestmark = pytest.mark.anyio


def accuracies(
    task: str, level: int, problems: int, tmp_path: Path, *spellings: str, select: str = "first"
) -> list[float]:
    kind = GENERATED[task]
    asked = [kind.problem(level, index) for index in range(problems)]
    by = By(model_named("reasoner"), kind, verifiers.parse("process"))
    programs = [methods.parse(spelling) for spelling in spellings]
    bench = Bench(by, asked, programs, [selections.parse(select)], Budget({"tokens": 8000}))
    return [row["accuracy"] for row in anyio.run(run, bench, open_store(tmp_path))]


async def grade(task: GeneratedTask, problem: Problem, text: str, finished: bool = True) -> Grade:
    draft = Draft(None, text, finish="end" if finished else None)
    return (await verifiers.parse("process").grade(draft, problem, task, Call((), 0)))[0]


@pytest.mark.parametrize("which", ["generator", "reward"])
def test_the_weights_are_shipped_and_small(which: Any) -> None:
    files = {file.name: file for file in folder(which).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files.keys()
    assert files["model.safetensors"].stat().st_size < 4e6
    assert json.loads(files["tokenizer.json"].read_text()) == json.loads(build().to_str())


@pytest.mark.parametrize("task", GENERATED)
def test_a_number_is_one_token_and_texts_come_back(task: str) -> None:
    kind, tokenizer = GENERATED[task], build()
    for level in kind.difficulties:
        problem = kind.problem(level, 0)
        for text in (problem.text, kind.solution(problem)):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            assert tokenizer.decode(ids) == text
            assert tokenizer.token_to_id("<unk>") not in ids
        solution = kind.solution(problem)
        assert len(tokenizer.encode(solution).ids) < kind.draft_tokens
        assert all(len(tokenizer.encode(step).ids) <= kind.step_tokens for step in solution.splitlines(keepends=True))


@pytest.mark.parametrize(("task", "level", "floor"), [("chain", 2, 0.8), ("procedure", 2, 0.8), ("countdown", 1, 0.6)])
def test_the_easy_is_nearly_always_right(task: str, level: int, floor: float, tmp_path: Path) -> None:
    (accuracy,) = accuracies(task, level, 40, tmp_path, "greedy")
    assert accuracy >= floor


MEASURED = json.loads((Path(__file__).parent.parent / "benchmarks" / "results" / "reasoner.json").read_text())


@pytest.mark.parametrize("task", GENERATED)
def test_the_dial_goes_from_easy_to_hopeless(task: str) -> None:
    """What 500 test problems a point measured of the shipped weights; `middle` is the lowest difficulty of 35 to 65 %."""
    accuracy = {int(level): found["accuracy"] for level, found in MEASURED["greedy"][task].items()}
    assert max(accuracy.values()) >= 0.85
    assert min(accuracy.values()) <= 0.15
    assert min(level for level, share in accuracy.items() if 0.35 <= share <= 0.65) == GENERATED[task].middle


def test_search_and_votes_have_something_to_find() -> None:
    assert MEASURED["pass@k"]["countdown"]["64"] >= 0.85
    assert MEASURED["votes"]["chain"]["majority of 16"] >= MEASURED["votes"]["chain"]["one"] + 0.1


@pytest.mark.parametrize("task", GENERATED)
def test_the_reward_model_ranks_steps(task: str) -> None:
    assert MEASURED["reward"][task]["auc"] >= 0.8


@pytest.mark.parametrize("task", GENERATED)
def test_the_middle_is_neither_easy_nor_hopeless(task: str, tmp_path: Path) -> None:
    (accuracy,) = accuracies(task, GENERATED[task].middle, 60, tmp_path, "greedy")
    assert 0.25 <= accuracy <= 0.75


async def checked() -> list[list[bool]]:
    """What is right so far at each step of 64 drafts that check themselves."""
    task = GENERATED["chain-checked"]
    by, sample = By(model_named("reasoner"), task), methods.parse("sample(n=16, temperature=1.0)")
    problems = [task.problem(6, index) for index in range(4)]
    pops = [(problem, await sample(problem, by, Scope.root(Run(Seeded(0))))) for problem in problems]
    return [task.right_so_far(p.state.text, problem) for problem, pop in pops for p in pop]


async def test_drafts_that_check_themselves_differ_in_length() -> None:
    assert len({len(verdicts) for verdicts in await checked()}) >= 4


@pytest.mark.xfail(reason="the shipped generator hardly tells whether a step and its check agree (docs/reasoner.md)")
async def test_checks_mend_most_slips() -> None:
    slipped = [verdicts for verdicts in await checked() if not all(verdicts)]
    assert len(slipped) >= 8
    assert sum(verdicts[-1] for verdicts in slipped) >= len(slipped) / 2


def test_search_is_better_than_one_draft(tmp_path: Path) -> None:
    contenders = ("greedy", "beam(width=4, expand=4)", "particle-filter(n=16)")
    one, beam, filtered = accuracies(
        "countdown", GENERATED["countdown"].middle, 40, tmp_path, *contenders, select="best"
    )
    assert beam >= one
    assert filtered >= one


@pytest.mark.parametrize("method", ["beam(width=2, expand=3)", "particle-filter(n=6)"])
def test_chains_are_solved_on_the_command_line(method: str, tmp_path: Path) -> None:
    words = ["solve", "--task", "chain", "--difficulty", "3", "--problem", "1", "--method", method, "--json"]
    found = CliRunner().invoke(app, [*words, "--store", str(tmp_path / "runs.sqlite")])
    assert found.exit_code == 0, found.stderr
    solution = json.loads(found.stdout)
    assert solution["answer"] == GENERATED["chain"].problem(3, 1).reference
    assert (solution["model"], solution["verifier"]) == ("reasoner", "process(path=None)")
    assert solution["cost"]["verifier_calls"] >= 3


@pytest.mark.parametrize("task", ["chain", "procedure"])
async def test_the_reward_model_tells_right_from_wrong(task: str) -> None:
    kind, told = GENERATED[task], 0
    for index in range(20):
        problem = kind.problem(4, index)
        right = kind.solution(problem)
        head, _, _ = right.partition("\nanswer: ")
        one, other = "12" if task == "chain" else "ab"
        wrong = head[:-1] + (other if head[-1] == one else one)
        good, bad = [await grade(kind, problem, f"{text}\n", finished=False) for text in (head, wrong)]
        assert len(good.steps) == 4
        assert good.value is not None
        assert bad.value is not None
        told += good.value > bad.value
    assert told >= 16


@pytest.mark.xfail(reason="of two first steps of a countdown the live one is preferred in 64 % (docs/reasoner.md)")
async def test_dead_ends_of_countdown_are_graded_lower() -> None:
    kind, told, pairs = GENERATED["countdown"], 0, 0
    for index in range(40):
        problem = kind.problem(2, index)
        first = kind.solution(problem).splitlines(keepends=True)[0]
        numbers = [int(n) for n in problem.text.split("=")[0].split()[1:]]
        a, b = max(numbers[:2]), min(numbers[:2])
        other = f"{a}+{b}={a + b} | {a + b} {numbers[2]}\n"
        if a + b > 99 or kind.right_so_far(other, problem) != [False]:
            continue
        good, bad = await grade(kind, problem, first, finished=False), await grade(kind, problem, other, finished=False)
        assert good.value is not None
        assert bad.value is not None
        told, pairs = told + (good.value > bad.value), pairs + 1
    assert pairs >= 10
    assert told >= 0.7 * pairs
