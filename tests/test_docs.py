"""What the pages say runs, and what is generated is fresh."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from forethought.assembly import generated_problem
from forethought.core.problem import Problem
from forethought.tasks import TASKS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SKELETONS = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
TRIAL = """
import anyio
from forethought.core.problem import Problem
from forethought.core.scope import Run, Seeded
from forethought.methods import By, methods
from forethought.models.scripted import Scripted
from forethought.selection import selections
from forethought.solving import Parts, solve_with
from forethought.tasks.text import Text

names = globals()
model = names["Echo"]() if "Echo" in names else Scripted(lambda prompt, so_far, seed: "no\\n\\nyes" if seed % 3 else "no")
task = names["Yes"]() if "Yes" in names else Text()
verifier = names["Brief"]() if "Brief" in names else None
method = names["TwoPhase"]() if "TwoPhase" in names else methods.parse("sample(n=3)")
rule = "shortest" if "Shortest" in names else "weighted" if verifier else "majority"
parts = Parts(By(model, task, verifier), method, selections.parse(rule))
found = anyio.run(solve_with, parts, Problem("is it so? yes"), 0)
assert found.answer and 0 < found.confidence <= 1 and found.cost.calls >= 3, found
"""


@pytest.mark.parametrize("skeleton", SKELETONS, ids=["method", "selection", "verifier", "task", "model"])
def test_each_skeleton_runs_as_it_stands(skeleton: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", skeleton + TRIAL], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_program_of_the_blocks_page_finds_what_the_page_says() -> None:
    page = (ROOT / "docs" / "blocks.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "is on: 0.9 evidence: 0.019" in done
    assert "moved: 0.9" in done
    assert float(re.findall(r"chain: (.*)", done)[0]) == pytest.approx(0.877, abs=0.05)
    evidence = on = 0.0
    for states in itertools.product((0, 1), repeat=7):
        looks = zip(states, states[1:], (1, 1, 0, 1, 1, 1), strict=False)
        chance = 0.5 * math.prod((0.8 if a == b else 0.2) * (0.75 if b == seen else 0.25) for a, b, seen in looks)
        evidence, on = evidence + chance, on + chance * states[-1]
    assert f"on with probability {on / evidence:.2f}, and the evidence is {evidence:.4f}" in page


@pytest.mark.parametrize("name", ["methods", "modules"])
def test_a_generated_page_is_fresh(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = importlib.import_module(f"{name}_page").page()
    assert (ROOT / "docs" / f"{name}.md").read_text() == page


def test_every_module_says_what_it_is_for() -> None:
    assert "|  |" not in (ROOT / "docs" / "modules.md").read_text()


def test_the_readme_has_exactly_two_set_up_commands() -> None:
    block = re.search(r"```sh\n(python3 -m venv.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    assert [line.split("/")[-1] for line in block[1].splitlines()] == ["forethought demo", "pytest"]


def test_the_python_example_of_the_readme_is_answered_right(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example
    text = re.search(r'"(countdown .*)"', example[1])
    assert text
    answer, confidence, _ = run("-c", example[1], at=tmp_path).split(maxsplit=2)
    assert TASKS["countdown"].correct(answer, Problem(text[1] + "\n"))
    assert float(confidence) > 0.5


def test_the_commands_of_the_readme_do_what_it_says(tmp_path: Path) -> None:
    """Those that need nothing but what is shipped. Two problems show of a bench what a hundred do."""
    lines = README.replace("\\\n", " ").splitlines()
    commands = [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?forethought (?!pull)", line)]
    commands = [line.replace("--limit 100", "--limit 2") for line in commands if "--model" not in line]
    assert [line.split()[1] for line in commands] == ["solve", "solve", "bench", "export", "replay"]
    first, second, bench, export, replay = (shlex.split(line)[1:] for line in commands)
    plenty = ("--budget", "tokens=16000")  # the default one has seconds besides
    found = json.loads(run("-m", "forethought", *first, "--json", at=tmp_path))
    assert TASKS["countdown"].correct(found["answer"], Problem(first[1] + "\n"))
    found = json.loads(run("-m", "forethought", *second, *plenty, at=tmp_path))
    _, problem = generated_problem("chain", int(second[4]), int(second[6]))
    assert found["answer"] == problem.reference
    assert "particle-filter" in run("-m", "forethought", *bench, at=tmp_path)
    (tmp_path / "samples.jsonl").write_text(run("-m", "forethought", *export[:-2], at=tmp_path))
    assert "rpc" in run("-m", "forethought", *replay, at=tmp_path)


def run(*words: str, at: Path) -> str:
    """What Python prints of these words, in a folder of its own and with no settings of the user's."""
    settings = {name: value for name, value in os.environ.items() if name != "FORETHOUGHT_MODEL"}
    source = {"PYTHONPATH": str(ROOT / "src"), "XDG_STATE_HOME": str(at)}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=at,
        env=settings | source,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
