"""How close `sample(n=64)` over HTTP comes to the bare requests, and to its-hub's SelfConsistency.

Prediction: the limit is one round trip of 50 ms, then the client's operations, since all 64 requests are in flight at once:
httpx2 needs about 0.7 ms on one core for a streamed request on a connection of its own (two writes, two reads, four layers
and h11, all in Python), and 0.4 ms more where one pool looks at all of its connections twice a request, as in the bare task
group. The core adds 0.1 ms a call. So the wall is 50 ms and about 64 times 0.9 ms of client: 0.7 to 0.8 of the bare group.
its-hub uses aiohttp, whose parser is in C, and does not stream: 0.3 ms a request. All at once it stays ahead (about 75 ms);
by its default of 32 at once it pays two round trips, and should come out even with one round trip of ours.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
from _common import Measured, interleaved, machine, options, ratios, report

import forethought
from forethought.core.draft import ROOT
from forethought.core.problem import Problem
from forethought.core.scope import Seeded
from forethought.methods.kernels import Extend
from forethought.models.openai import OpenAI
from forethought.models.openai_wire import AT_ONCE, IDLE
from forethought.tasks.text import Text

N, WAIT = 64, 0.05
HERE = Path(__file__).parent
QUESTION = "What is 6 times 7?"
OURS, BARE, HUB, HUB_DEFAULT = (
    "forethought",
    "bare httpx2",
    "its-hub, all at once",
    "its-hub, its default of 32 at once",
)
ITS_HUB = {HUB: -1, HUB_DEFAULT: 32}


@contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is talked to line by line and ends when its input does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            assert process.stdin
            process.stdin.close()


def asked(process: subprocess.Popen[str]) -> float:
    """The number with which the process answers a line."""
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())


async def sample(model: OpenAI) -> None:
    """The whole of a solve: 64 drafts, and a vote."""
    solution = await forethought.solve(
        Problem(QUESTION), task="text", model=model, method=f"sample(n={N})", budget="tokens=1000000"
    )
    assert len(solution.population) == N


def bodies(model: OpenAI) -> list[dict[str, Any]]:
    """The same requests, seeds aside."""
    task = Text()
    request = Extend(model, task, task.prompt(Problem(QUESTION)), 0.8).request(ROOT)
    assert model.dialect
    return [model.dialect.body(model.model, request, Seeded(0).seed((i,))) for i in range(N)]


async def bare(client: httpx2.AsyncClient, url: str, model: OpenAI) -> None:
    """The requests as one task group, their answers read to the end and not looked at."""
    async with anyio.create_task_group() as tasks:
        for body in bodies(model):
            tasks.start_soon(partial(client.post, url, json=body))


def timed(runner: asyncio.Runner, work: Callable[[], Awaitable[object]]) -> float:
    """Seconds, in an event loop that lives on, so that connections stay open."""

    async def run() -> float:
        start = time.perf_counter()
        await work()
        return time.perf_counter() - start

    return runner.run(run())


def measure(url: str, its_hub: str | None, repetitions: int) -> dict[str, list[float]]:
    """Seconds of every contender, in turn."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        model = OpenAI("toy", url)
        limits = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=IDLE)
        client = httpx2.AsyncClient(limits=limits, timeout=30, verify=False)
        runner.run(model.prepare())
        post = partial(bare, client, f"{url}/chat/completions", model)
        cases: dict[str, Callable[[], float]] = {
            OURS: partial(timed, runner, partial(sample, model)),
            BARE: partial(timed, runner, post),
        }
        for name, at_once in ITS_HUB.items() if its_hub else ():
            peer = stack.enter_context(child(its_hub or "", str(HERE / "_its_hub.py"), url, str(N), str(at_once)))
            cases[name] = partial(asked, peer)
        times = interleaved(cases, repetitions)
        runner.run(model.aclose())
        runner.run(client.aclose())
    return times


def compared(times: dict[str, list[float]]) -> list[Measured]:
    """Milliseconds, then ratios against their targets."""
    measured = [Measured(name, "ms", [s * 1e3 for s in seconds]) for name, seconds in times.items()]
    targets = {BARE: 1.1, HUB: 1.0, HUB_DEFAULT: 1.0}
    rivals = [name for name in times if name != OURS]
    return measured + [Measured(f"{OURS} / {r}", "", ratios(times[OURS], times[r]), targets[r]) for r in rivals]


def main() -> None:
    parser = options(__doc__ or "", repetitions=11)
    parser.add_argument("--its-hub-python", metavar="PATH", help="the Python of an environment with its-hub[lm]==1.2.0")
    asked_for = parser.parse_args()
    before = machine()
    if not asked_for.its_hub_python:
        sys.stdout.write("its-hub is skipped: give --its-hub-python PATH (an environment with its-hub[lm]==1.2.0)\n")
    with child(sys.executable, str(HERE / "_server.py"), str(WAIT)) as server:
        assert server.stdout
        times = measure(server.stdout.readline().strip(), asked_for.its_hub_python, asked_for.repetitions)
    report("http_fanout", compared(times), before, asked_for.json)


if __name__ == "__main__":
    main()
