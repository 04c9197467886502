"""Fan-outs by as few tasks as they take."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from forethought.core.budget import Budget
from forethought.core.cost import ZERO, Cost
from forethought.core.crew import FIRST
from forethought.core.errors import BudgetEnded
from forethought.core.operators import each, race
from forethought.core.population import Particle
from forethought.core.scope import Run, Scope
from forethought.core.trace import MemoryTrace
from forethought.engine.engine import Engine
from forethought.engine.rows import Sampling
from forethought.engine.weights import load

from . import tiny
from .scripted import Extend, World

pytestmark = pytest.mark.anyio
N = 1000
ALL = [Particle(i) for i in range(N)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio shuffles its tasks, so that a pass may look idle
@pytest.mark.parametrize("passes", [0, 1, 2, 3])
async def test_what_does_not_wait_is_served_by_few_tasks(passes: int) -> None:
    tasks = set()

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        tasks.add(anyio.get_current_task().id)
        for _ in range(passes):
            await anyio.lowlevel.checkpoint()
        return particle.moved(-particle.state)

    assert [p.state for p in await each(ALL, kernel, Scope.root())] == [-i for i in range(N)]
    assert len(tasks) <= FIRST * 2**passes


@pytest.mark.parametrize("quick", [0, 1, 500, N - 1])
async def test_all_that_wait_are_under_way_within_a_few_passes(quick: int) -> None:
    """Also behind some that end at once: the last one to begin lets all go on."""
    waiting, passes, all_here = 0, 0, anyio.Event()

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        nonlocal waiting
        if particle.state >= quick:
            waiting += 1
            if waiting == N - quick:
                all_here.set()
            await all_here.wait()
        return particle

    async def count() -> None:
        nonlocal passes
        while not all_here.is_set():
            await anyio.lowlevel.checkpoint()
            passes += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count)
        with anyio.fail_after(5):
            await each(ALL, kernel, Scope.root())
    assert passes <= 14


async def test_one_that_waits_does_not_hold_up_others() -> None:
    last = anyio.Event()

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        if particle.state == N - 1:
            last.set()
        elif not particle.state % 100:
            await last.wait()
        else:
            await anyio.lowlevel.checkpoint()
        return particle

    with anyio.fail_after(5):
        await each(ALL, kernel, Scope.root())


async def test_nothing_is_begun_after_an_error() -> None:
    begun = 0

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        nonlocal begun
        begun += 1
        if particle.state == 3:
            raise ValueError("no")
        await anyio.lowlevel.checkpoint()
        return particle

    with pytest.raises(ValueError, match="no"):
        await each(ALL, kernel, Scope.root())
    assert begun <= FIRST


async def test_nothing_is_begun_after_a_race_by_arrival_is_won() -> None:
    begun = 0

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        nonlocal begun
        begun += 1
        return particle

    first = await race(ALL, kernel, Scope.root(Run(ordered=False)), first=2)
    assert [p.state for p in first] == [0, 1]
    assert begun == 2


async def test_a_deadline_is_kept_in_a_long_fan_out() -> None:
    begun = 0

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        nonlocal begun
        begun += 1
        time.sleep(0.001)  # noqa: ASYNC251 - a model that works in the event loop
        await anyio.lowlevel.checkpoint()
        return particle.moved(-1)

    with pytest.raises(BudgetEnded), Scope.root().limit(Budget({"seconds": 0.05})) as inner:
        await each(ALL, kernel, inner)
    assert begun < 50 + 128  # those that fit, and those of the pass in which time was over
    assert inner.kept is not None
    assert len(inner.kept) == N


async def test_what_had_not_begun_when_time_was_over_does_not_begin_in_a_replay() -> None:
    """Half of the programs buy something, half would be through at once."""
    world = World(random.Random(0))
    extend = Extend(world, 3)

    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        time.sleep(0.001)  # noqa: ASYNC251 - a model that works in the event loop
        return await extend(particle, at) if len(particle.state) % 2 else particle.moved("free")

    async def life(run: Run) -> tuple[list[str], Cost]:
        at = Scope.root(run)
        with pytest.raises(BudgetEnded), at.limit(Budget({"seconds": 0.05})) as inner:
            await each([Particle("a" * (i % 2)) for i in range(N)], kernel, inner)
        assert at.account.held == ZERO
        return [p.state for p in inner.kept or []], at.account.cost._replace(seconds=0.0)

    trace = MemoryTrace()
    made = await life(Run(trace=trace))
    assert "" in made[0]
    replay = Run(trace=MemoryTrace(trace.events))
    assert await life(replay) == made
    assert replay.physical_calls == 0


async def test_only_a_deadline_decides_for_later_lives_what_does_not_begin() -> None:
    """Not a run that was stopped: it goes on, and all that it had before it begins."""
    extend, stop, trace = Extend(World(random.Random(0)), 3), anyio.CancelScope(), MemoryTrace()

    async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
        stop.cancel()
        return await extend(particle, at)

    with stop, Scope.root(Run(trace=trace)).limit(Budget({"seconds": 60})) as inner:
        await each([Particle("")] * 64, kernel, inner)
    assert stop.cancelled_caught
    assert {event.kind for event in trace.events} == {"wave", "sample cancelled"}


async def test_a_replay_takes_over_all_that_was_recorded_behind_what_was_in_flight() -> None:
    async def life(run: Run) -> tuple[list[str], Cost]:
        slow, quick = Extend(World(random.Random(0), pace=9.0), 3), Extend(World(random.Random(0)), 3)

        async def kernel(particle: Particle[str], at: Scope) -> Particle[str]:
            return await (quick if particle.state else slow)(particle, at)

        at = Scope.root(run)
        with pytest.raises(BudgetEnded), at.limit(Budget({"seconds": 0.2})) as inner:
            await each([Particle("a" * (i >= FIRST)) for i in range(4 * FIRST)], kernel, inner)
        return [p.state for p in inner.kept or []], at.account.cost._replace(seconds=0.0)

    trace = MemoryTrace()
    made = await life(Run(trace=trace))
    assert all(len(state) > 1 for state in made[0][FIRST:])
    assert await life(Run(trace=MemoryTrace(trace.events))) == made


@pytest.mark.parametrize("n", [4, 64])
async def test_requests_of_a_fan_out_meet_in_the_first_step_of_an_engine(n: int, tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    engine = Engine(replace(load(tmp_path), eos=frozenset()), lambda row: False)

    async def kernel(particle: Particle[int], at: Scope) -> Particle[int]:
        await engine.generate([*range(2, 9), particle.state % 5 + 2], Sampling(12), particle.state)
        return particle

    await each(ALL[:n], kernel, Scope.root())
    assert engine.statistics.steps == 1 + 12  # the first reads, for all, what they share
