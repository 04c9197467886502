"""A run killed at any moment goes on where it was: no completed call is made again, and the result is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from forethought.core.store import RunStore
from forethought.core.trace import Event

KILLED, DONE = -signal.SIGKILL, 0


@dataclass
class Server:
    """Starts lives of the program in processes of their own (see `resume_program`)."""

    process: subprocess.Popen[str]

    def start(self, folder: Path, backend: str) -> int:
        """The id of a new process, which is not collected before `ended` is called."""
        self._say(json.dumps([*(str(folder / name) for name in ("runs.sqlite", "log", "result.json")), backend]))
        return self._told("child")

    def ended(self) -> int:
        """The exit code of the life started last."""
        self._say("wait")
        return self._told("code")

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _told(self, what: str) -> int:
        assert self.process.stdout is not None
        word, number = self.process.stdout.readline().split()
        assert word == what
        return int(number)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    command = [sys.executable, "-m", "tests.resume_program"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def truth(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[str]]:
    """The result of a run that nothing disturbs, and its log."""
    folder = tmp_path_factory.mktemp("truth")
    server.start(folder, "asyncio")
    assert server.ended() == DONE
    return json.loads((folder / "result.json").read_text()), lines(folder)


def lines(folder: Path) -> list[str]:
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def begun(log: list[str]) -> list[str]:
    return [line.removeprefix("begin ") for line in log if line.startswith("begin ")]


def recorded(folder: Path) -> dict[str, Event]:
    """The completed calls in the store, by place."""
    store = RunStore(folder / "runs.sqlite")
    events = [event for row in store.runs() for event in store.events(row.id) if event.kind in ("sample", "grade")]
    store.close()
    return {".".join(map(str, event.place)): event for event in events}


def kill_after(server: Server, folder: Path, backend: str, count: int, delay: float) -> int:
    """Start a life and kill it some time after the log has grown by `count` lines; return its exit code."""
    before = len(lines(folder))
    child = server.start(folder, backend)
    end = time.monotonic() + 20
    while len(lines(folder)) < before + count and time.monotonic() < end and not (folder / "result.json").exists():
        time.sleep(0.0005)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return server.ended()


@pytest.mark.parametrize("seed", range(20))
def test_a_killed_run_goes_on(
    server: Server, truth: tuple[dict[str, Any], list[str]], tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    backends, log = chance.sample(["asyncio", "trio"], 2), 0
    in_flight: set[str] = set()
    for count in (chance.randrange(len(truth[1])), chance.randrange(30)):
        code = kill_after(server, tmp_path, backends[0], count, chance.random() * 0.005)
        done, called = recorded(tmp_path), begun(lines(tmp_path)[log:])
        log = len(lines(tmp_path))
        in_flight = (in_flight | set(called)) - done.keys()
        if code == DONE:
            break
        assert code == KILLED
    server.start(tmp_path, backends[1])
    assert server.ended() == DONE
    result, called = json.loads((tmp_path / "result.json").read_text()), begun(lines(tmp_path)[log:])
    assert (result["made"], result["cost"]) == (truth[0]["made"], truth[0]["cost"])
    assert not done.keys() & set(called), "a call that was completed and recorded was made again"
    assert len(called) == len(set(called))
    after, again = recorded(tmp_path), {".".join(map(str, place)) for place in result["again"]}
    assert after.keys() == set(begun(truth[1]))
    assert in_flight <= set(called)
    assert in_flight <= again <= set(called)
    assert all(after[place].data.get("again") for place in in_flight)


def test_an_undisturbed_run_makes_every_call_once(truth: tuple[dict[str, Any], list[str]]) -> None:
    calls = begun(truth[1])
    assert len(calls) == len(set(calls)) > 100
    assert truth[0]["again"] == []
