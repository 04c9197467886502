"""What the pages say runs, and what is generated is fresh."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
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
