"""Random operations on a small pool against the slowest reference: one row alone in an engine that has seen nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from forethought.engine.engine import Engine
from forethought.engine.llama import Llama
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from tests import tiny
from tests.test_engine import check_idle, check_live, prompt

PAGES = 40
Asked = tuple[tuple[int, ...], Sampling, int]


@dataclass
class Fuzz:
    """Extend, fork, cancel, read, evict, at random, many at once. What was extended is there to be forked."""

    model: Llama
    rng: random.Random
    texts: list[tuple[int, ...]] = field(default_factory=list)
    found: list[tuple[Asked, Row]] = field(default_factory=list)
    cancelled: int = 0
    checked: int = 0

    def __post_init__(self) -> None:
        pages = Engine(self.model, lambda row: False).batch.pages
        self.engine = Engine(self.model, lambda row: False, kv_bytes=PAGES * pages.page_bytes, rows=7)

    def beginning(self) -> tuple[int, ...]:
        """A new prompt, a text that goes on, or one that is left somewhere and goes on otherwise."""
        rng = self.rng
        if not self.texts or rng.random() < 0.2:
            return prompt(rng.randint(1, 60), rng.randrange(20))
        text = rng.choice(self.texts[-30:])
        text = text[: rng.randint(1, len(text))] if rng.random() < 0.5 else text
        return text if len(text) < 150 else text[:20]

    def how(self) -> Sampling:
        rng = self.rng
        return Sampling(
            rng.choice([1, 2, 5, 16, 30]),
            temperature=rng.choice([0.0, 0.7, 1.0]),
            top_p=rng.choice([1.0, 0.9]),
            top_k=rng.choice([0, 20]),
            repetition=rng.choice([1.0, 1.2]),
            forced=tuple(rng.randrange(4, 100) for _ in range(rng.choice([0, 0, 1, 3]))),
        )

    async def operation(self) -> None:
        await anyio.lowlevel.checkpoint()
        ids, how, seed = asked = (self.beginning(), self.how(), self.rng.randrange(1000))
        steps = self.rng.choice([None, None, None, 0, 1, 9])
        if self.rng.random() < 0.1:
            await self.engine.loglikelihood(ids[: len(ids) // 2 + 1], ids[len(ids) // 2 + 1 :])
            return
        with anyio.CancelScope() as scope:

            def progress(row: Row) -> None:
                if not row.cancelled:  # who is cancelled is told while others may be in a step
                    check_live(self.engine)
                    self.checked += len(self.engine.batch.live)
                if steps is not None and len(row.tokens) >= steps:
                    scope.cancel()

            row = await self.engine.generate(ids, how, seed, progress)
            self.found.append((asked, row))
            self.texts.append((*ids, *row.tokens))
        self.cancelled += scope.cancelled_caught

    async def wave(self, count: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(self.operation)
        if self.rng.random() < 0.2:
            self.engine.batch.tree.evict(self.rng.randint(1, PAGES))
        check_idle(self.engine)
        assert self.engine.batch.pages.peak <= PAGES


async def drive(model: Llama, operations: int, checked: int, seed: int) -> int:
    """How many of the rows that are checked differ from the same row alone: by rounding, where a draw is on an edge."""
    fuzz, done = Fuzz(model, random.Random(seed)), 0
    while done < operations:
        count = fuzz.rng.randint(1, 20)
        await fuzz.wave(count)
        done += count
    assert fuzz.cancelled > operations // 50
    assert fuzz.checked > operations
    different = 0
    for asked, row in fuzz.rng.sample(fuzz.found, min(checked, len(fuzz.found))):
        alone = await Engine(model, lambda row: False, kv_bytes=1 << 22).generate(*asked)
        assert (row.finish, row.length) == (alone.finish, alone.length)
        assert row.cached + row.computed == alone.computed
        same = next((i for i, (a, b) in enumerate(zip(row.tokens, alone.tokens, strict=True)) if a != b), row.length)
        different += row.tokens != alone.tokens
        assert row.logprobs[:same] == pytest.approx(alone.logprobs[:same], abs=1e-3)
    return different


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    path: Path = tmp_path_factory.mktemp("fuzz")
    tiny.generator(path)
    return replace(load(path), eos=frozenset())


@pytest.mark.parametrize("seed", [0, 1])
def test_random_operations_give_what_each_gives_alone(model: Llama, seed: int) -> None:
    assert anyio.run(drive, model, 300, 60, seed) == 0


@pytest.mark.slow
def test_ten_thousand_random_operations_give_what_each_gives_alone(model: Llama) -> None:
    assert anyio.run(drive, model, 10_000, 10_000, 7) <= 5
