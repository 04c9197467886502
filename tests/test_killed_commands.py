"""`solve` and `bench` killed in the middle: the same command goes on, repeats no recorded call, and ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from forethought.cli.app import app
from forethought.core.scope import Seeded
from forethought.core.store import RunStore
from tests.servers import Endpoint

DRAFTS, STALLED = (
    24,
    4,
)  # the last few are never answered to a process that is to be killed, so it cannot be done before
COMMANDS = {  # a budget that admits a few drafts at a time
    "solve": f"solve --task chain --method sample(n={DRAFTS}) --budget tokens=900 --store {{}}/run.sqlite --json",
    "bench": f"bench --task chain --method sample(n=3) --limit {DRAFTS // 3} --budget tokens=250 --out {{}} --json",
}
Samples = dict[int, str]


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Endpoint, list[int]]]:
    """A model that answers by its seed, and the seeds with which it was asked for drafts: they tell calls apart."""

    def say(prompt: str, so_far: str, seed: int) -> str:
        if not prompt.startswith("chain"):
            return "apple\npear\n".removeprefix(so_far)
        asked.append(seed)
        if endpoint.delay and len(asked) > DRAFTS - STALLED:
            endpoint.delay = 60.0
        return f"answer: {seed % 3}"

    asked: list[int] = []
    with Endpoint(say=say).serve() as endpoint:
        yield endpoint, asked


def recorded(folder: Path) -> Samples:
    """The completions on disk, by the seeds that they were asked with."""
    if not (folder / "run.sqlite").exists():
        return {}
    store = RunStore(folder / "run.sqlite")
    events = [(row.spec["seed"], event) for row in store.runs() for event in store.events(row.id)]
    store.close()
    return {Seeded(seed).seed(event.place): event.data["text"] for seed, event in events if event.kind == "sample"}


def killed(words: list[str], folder: Path, moment: int) -> None:
    """Run a command in a process of its own until so many completions are on disk, and end it there."""
    with subprocess.Popen(
        [sys.executable, "-m", "forethought", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        until = time.monotonic() + 60
        while len(recorded(folder)) < moment and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.communicate()[0] == b""
    assert process.returncode == -signal.SIGKILL


def result(words: list[str]) -> Any:
    """What a command tells, without what the clock and the probe of an endpoint by each process have a part in."""
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    rows = told.get("rows", [told])
    return [{k: v for k, v in row.items() if k not in ("cost", "mean", "total", "wall_seconds")} for row in rows]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_killed_goes_on(command: str, served: tuple[Endpoint, list[int]], tmp_path: Path) -> None:
    endpoint, asked = served

    def words(folder: Path) -> list[str]:
        return [*COMMANDS[command].format(folder).split(), "--model", f"openai:toy@{endpoint.url}"]

    whole = tmp_path / "whole"
    truth = result(words(whole))
    assert len(recorded(whole)) == DRAFTS
    for moment in (1, DRAFTS // 2):
        folder = tmp_path / str(moment)
        asked.clear()
        endpoint.delay = 0.05
        killed(words(folder), folder, moment)
        endpoint.delay, before = 0.0, recorded(folder)
        assert moment <= len(before) < DRAFTS
        asked.clear()
        assert result(words(folder)) == truth
        assert not before.keys() & set(asked), "a call that was completed and recorded was made again"
        assert recorded(folder) == recorded(whole)
