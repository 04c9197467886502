"""The local engine computes what transformers computes, and no neighbour, fork, eviction or cancellation changes that."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch

from forethought.core.cost import Cost
from forethought.core.draft import Draft
from forethought.core.errors import ModelError, UsageError
from forethought.core.scope import Call
from forethought.engine import batch, matrix
from forethought.engine import engine as engine_module
from forethought.engine.batch import SLOTS
from forethought.engine.engine import Engine
from forethought.engine.pages import PAGE
from forethought.engine.rows import Row, Steer
from forethought.engine.sampling import Columns, Sampling, choose
from forethought.engine.weights import load
from forethought.models.local import Local
from forethought.models.protocol import Request
from forethought.models.reward import RewardModel
from tests import tiny

pytestmark = pytest.mark.anyio

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 128,
    "short_factor": [1.0, 1.1, 1.3, 1.6], "long_factor": [1.0, 1.5, 2.0, 4.0],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "full": {"num_key_value_heads": 4},
    "one-key-head": {"num_key_value_heads": 1},
    "wide-heads": {"head_dim": 16},
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": YARN},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}},
    "longrope": {"rope_parameters": LONGROPE},
}
Ids = tuple[int, ...]


def prompt(length: int, seed: int = 0) -> Ids:
    made: list[int] = torch.randint(
        4, tiny.VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return tuple(made)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grouped")
    tiny.generator(path)
    return path


@pytest.fixture(scope="session")
def reward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("reward")
    return path, tiny.classifier(path)


@pytest.fixture
def make(folder: Path) -> Callable[..., Engine]:
    model = replace(load(folder), eos=frozenset())
    return lambda **how: Engine(model, lambda row: False, **how)


@pytest.fixture
def local(folder: Path) -> Local:
    return Local(folder)


@torch.inference_mode()
def read_by(theirs: Any, ids: Ids) -> torch.Tensor:
    logits: torch.Tensor = theirs(torch.tensor([ids])).logits[0]
    return logits


async def together(engine: Engine, asked: Sequence[tuple[Ids, Sampling, int]]) -> list[Row]:
    rows: list[Row] = [None] * len(asked)  # type: ignore[list-item]

    async def one(i: int) -> None:
        rows[i] = await engine.generate(*asked[i])

    async with anyio.create_task_group() as tasks:
        for i in range(len(asked)):
            tasks.start_soon(one, i)
    return rows


def check_idle(engine: Engine) -> None:
    """Nothing is left behind."""
    assert not engine.batch.live
    assert not engine.batch.waiting
    assert not engine._waiters
    assert not engine._driven
    assert engine.batch.pages.reserved == 0
    assert not any(node.locks for node in engine.batch.tree.nodes())
    engine.batch.tree.check_integrity()


def check_live(engine: Engine) -> None:
    """All pages, promises and locks are those of the rows that are live now. Only between two steps."""
    now, locks = engine.batch, Counter[int]()
    tree = now.tree
    tree.check_integrity()
    assert now.pages.reserved == sum(row.seat.promised for row in now.live)
    for row in now.live:
        place, text = row.seat, (*row.ids, *row.tokens)
        path = tree.path(place.node, place.known)
        assert place.node.end == place.known
        assert tuple(token for node, taken in path for token in node.tokens[:taken]) == text[: place.known]
        assert place.known <= place.filled <= row.most
        locks.update(id(node) for node, _ in path)
    assert {id(node): node.locks for node in tree.nodes() if node.locks} == locks
    assert tree.root.locks == len(now.live)
    assert now.seats.layout.slots.tokens <= SLOTS * now.pages.count * PAGE


# the same numbers as transformers


async def logits_of(engine: Engine, ids: Ids, length: int) -> torch.Tensor:
    """The logits after each token from `length` on: the last ones are forced."""
    seen = list[torch.Tensor]()
    how = Sampling(len(ids) - length + 1, forced=ids[length:])
    await engine.generate(ids[:length], how, 0, hook=lambda row, logits: seen.append(logits.clone()))
    return torch.stack(seen)


def check_against(theirs: Any, path: Path, new: int) -> None:
    """Logits of a read and of a decoded text, and greedy text."""
    engine, ids = Engine(replace(load(path), eos=frozenset()), lambda row: False), prompt(60, 1)
    want = read_by(theirs, ids)[39:]
    ours = anyio.run(logits_of, engine, ids, 40)
    assert (ours - want).abs().max() <= 1e-4 * want.abs().max()
    start = torch.tensor([ids[:40]])
    greedy = {"do_sample": False, "eos_token_id": -1, "attention_mask": torch.ones_like(start)}
    whole = theirs.generate(start, max_new_tokens=new, **greedy)
    row = anyio.run(engine.generate, ids[:40], Sampling(new, temperature=0.0), 0)
    assert row.tokens == whole[0, 40:].tolist()
    assert row.finish == "length"


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_logits_and_greedy_text_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    check_against(tiny.generator(tmp_path, **KINDS[kind]), tmp_path, 24)


async def test_texts_end_where_frequencies_would_change(tmp_path: Path) -> None:
    tiny.generator(tmp_path, **KINDS["longrope"])
    engine = Engine(replace(load(tmp_path), eos=frozenset()), lambda row: False)
    assert len((await engine.generate(prompt(120), Sampling(40), 0)).tokens) == 128 + 1 - 120
    with pytest.raises(UsageError, match="this model reads 128"):
        await engine.generate(prompt(129), Sampling(1), 0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.inference_mode()
def test_families_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    check_against(tiny.of_family(family, tmp_path), tmp_path, 200)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.inference_mode()
def test_packed_matrices_change_nothing(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "PACKED", 1)
    theirs = tiny.of_family(family, tmp_path)
    assert type(load(tmp_path).layers[0].qkv) is matrix.Packed
    check_against(theirs, tmp_path, 24)


def test_parameters_are_counted_once(tmp_path: Path) -> None:
    for tied in (False, True):
        path = tmp_path / str(tied)
        theirs = tiny.generator(path, tie_word_embeddings=tied)
        assert load(path).shape.parameters == theirs.num_parameters()


async def test_logprobs_and_alternatives_are_those_of_the_model(folder: Path, make: Callable[..., Engine]) -> None:
    theirs = tiny.generator(folder)
    ids = prompt(9)
    row = await make().generate(ids, Sampling(6, temperature=0.7, top=5), 3)
    logits = read_by(theirs, (*ids, *row.tokens))[8:-1].log_softmax(-1)
    assert row.logprobs == pytest.approx([logits[i, t].item() for i, t in enumerate(row.tokens)], abs=1e-4)
    for i, alternatives in enumerate(row.top):
        assert list(alternatives) == logits[i].topk(5).indices.tolist()


async def test_loglikelihood_is_that_of_transformers(folder: Path, make: Callable[..., Engine]) -> None:
    theirs, engine, ids = tiny.generator(folder), make(), prompt(20)
    logits = read_by(theirs, ids).log_softmax(-1)
    for start in (12, 5, 19, 12, 1):  # the second time, much is known already
        want = [logits[i - 1, ids[i]].item() for i in range(start, 20)]
        assert await engine.loglikelihood(ids[:start], ids[start:]) == pytest.approx(want, abs=1e-4)
    assert await engine.loglikelihood(ids, ()) == ()
    check_idle(engine)


async def test_a_classifier_reads_on_where_it_was(reward: tuple[Path, Any]) -> None:
    path, theirs = reward
    engine, ids = Engine(load(path), lambda row: False), prompt(30)
    want = read_by(theirs, ids).softmax(-1)[:, 1].tolist()
    for length, computed in ((10, 10), (11, 1), (30, 19), (30, 0), (20, 0)):
        scored = await engine.score(ids[:length])
        assert scored.computed == computed
        assert scored.outputs == pytest.approx(want[:length], abs=1e-4)
    other = (*ids[:15], 5, 6, 7)
    scored = await engine.score(other)
    assert scored.computed == 3
    assert scored.outputs[:15] == pytest.approx(want[:15], abs=1e-4)
    assert scored.outputs == pytest.approx((await Engine(load(path), lambda row: False).score(other)).outputs, abs=1e-5)
    check_idle(engine)


# a request alone and in company


@pytest.mark.parametrize(("neighbours", "at_once"), [(1, 80), (7, 80), (64, 80), (64, 32)])
async def test_neighbours_change_nothing(make: Callable[..., Engine], neighbours: int, at_once: int) -> None:
    how = Sampling(24, temperature=1.0)
    mine = [(prompt(11, s), how, s) for s in range(3)]
    alone = [(await make().generate(*asked)).tokens for asked in mine]
    others = [
        (prompt(3 + i % 17, 100 + i), Sampling(1 + i % 30, temperature=(i % 3) / 2), i) for i in range(neighbours)
    ]
    for some in (mine[:1], mine):
        engine = make(rows=at_once)
        first, behind = others[: neighbours // 2], others[neighbours // 2 :]
        rows = await together(engine, [*first, *some, *behind])
        assert [row.tokens for row in rows[len(first) : len(first) + len(some)]] == alone[: len(some)]
        del rows[len(first) : len(first) + len(some)]
        assert [len(row.tokens) for row in rows] == [how.max_tokens for _, how, _ in others]
        check_idle(engine)


@pytest.mark.parametrize("neighbours", [1, 7, 64])
async def test_neighbours_change_no_logit_by_more_than_rounding(make: Callable[..., Engine], neighbours: int) -> None:
    how = Sampling(20)
    ids = (*prompt(11), *prompt(20, 9))
    alone = await logits_of(make(), ids, 11)
    engine, found = make(rows=80), list[torch.Tensor]()

    async def mine() -> None:
        found.append(await logits_of(engine, ids, 11))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mine)
        for i in range(neighbours):
            begin = ids[:8] if i % 2 else ()
            tasks.start_soon(engine.generate, (*begin, *prompt(3 + i % 17, 100 + i)), how, i)
    assert (found[0] - alone).abs().max() <= 1e-4 * alone.abs().max()
    check_idle(engine)


async def test_the_seed_decides(make: Callable[..., Engine]) -> None:
    engine = make()
    rows = await together(engine, [(prompt(5), Sampling(16), seed % 4) for seed in range(8)])
    assert [row.tokens for row in rows[:4]] == [row.tokens for row in rows[4:]]
    assert len({tuple(row.tokens) for row in rows}) == 4


# prefixes


async def test_a_fork_computes_only_its_new_tokens(make: Callable[..., Engine]) -> None:
    engine = make()
    root = await engine.generate(prompt(20), Sampling(10), 0)
    assert (root.cached, root.computed) == (0, 20 + 9)
    text = (*prompt(20), *root.tokens)
    fork = await engine.generate(text, Sampling(5), 1)
    assert (fork.cached, fork.computed) == (29, 1 + 4)
    middle = await engine.generate(text[:25], Sampling(5), 2)
    assert (middle.cached, middle.computed) == (24, 1 + 4)
    other = await engine.generate((*text[:15], 4, 5, 6), Sampling(1), 3)
    assert (other.cached, other.computed) == (15 + (text[15] == 4), 3 - (text[15] == 4))
    assert fork.tokens == (await make().generate(text, Sampling(5), 1)).tokens
    check_idle(engine)


async def test_equal_prompts_are_read_once(make: Callable[..., Engine]) -> None:
    engine = make()
    rows = await together(engine, [(prompt(50), Sampling(4), seed) for seed in range(16)])
    assert sorted(row.cached for row in rows) == [0, *[50] * 15]
    assert sum(row.computed for row in rows) == 50 + 16 * 3


async def test_what_is_evicted_is_computed_again(make: Callable[..., Engine]) -> None:
    asked = [(prompt(4 + i % 9, i % 5), Sampling(12), i % 7) for i in range(40)]
    want = [row.tokens for row in await together(make(), asked)]
    for pages in (2, 5, 20):
        engine = make(kv_bytes=pages * make().batch.pages.page_bytes, rows=5)
        assert [row.tokens for row in await together(engine, asked)] == want
        assert engine.batch.pages.peak <= pages
        assert [(await engine.generate(*a)).tokens for a in asked[:10]] == want[:10]
        check_idle(engine)


# cancellation and failure

LONG = 80  # tokens: ten times what are written when a request is cancelled


@pytest.mark.parametrize("victims", [(0,), (1,), (2, 4), (0, 1, 2), (0, 1, 2, 3)])
async def test_the_cancelled_leave_and_the_others_finish(
    make: Callable[..., Engine], victims: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "HOP", 0.0)  # a step a hop, so that nobody is through before
    asked = [(prompt(6, i), Sampling(LONG), i) for i in range(5)]
    want = [row.tokens for row in await together(make(), asked)]
    for rows_at_once in (64, 2):  # with two rows, some are cancelled while they wait
        engine, ended = make(rows=rows_at_once), dict[int, list[int]]()
        scopes = [anyio.CancelScope() for _ in asked]

        def progress(row: Row, scopes: list[anyio.CancelScope] = scopes) -> None:
            if len(row.tokens) >= LONG // 10:
                for victim in victims:
                    scopes[victim].cancel()

        async def one(i: int, asking: Awaitable[Row], scope: anyio.CancelScope, ended: dict[int, list[int]]) -> None:
            with scope:
                ended[i] = (await asking).tokens

        async with anyio.create_task_group() as tasks:
            for i in range(5):
                tasks.start_soon(one, i, engine.generate(*asked[i], progress), scopes[i], ended)
        assert ended == {i: want[i] for i in range(5) if i not in victims}
        check_idle(engine)


async def test_a_lone_cancelled_request_leaves_no_trace(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "HOP", 0.0)
    engine = make(rows=1)
    with anyio.CancelScope() as scope:
        await engine.generate(prompt(6), Sampling(LONG), 0, lambda row: scope.cancel())
    assert scope.cancelled_caught
    check_idle(engine)
    assert len((await engine.generate(prompt(5), Sampling(3), 0)).tokens) == 3
    check_idle(engine)


STRANGE = ((3, math.nan), (3, math.inf), (3, 1e39), (-1, 1.0), (tiny.VOCABULARY, 1.0), (10**6, 1.0))
EVERY = dict.fromkeys(range(tiny.VOCABULARY), -math.inf)


async def test_a_bad_request_harms_nobody(make: Callable[..., Engine]) -> None:
    engine, alone = make(), make()
    want = (await alone.generate(prompt(5), Sampling(40), 0)).tokens

    def broken(row: Row, logits: torch.Tensor) -> None:
        raise ZeroDivisionError

    def biased(token: int, bias: float) -> Callable[[], Awaitable[Row]]:
        return lambda: engine.generate(prompt(6), Sampling(4), 0, hook=lambda row, logits: Steer(bias={token: bias}))

    bad: dict[type[Exception], list[Callable[[], Awaitable[Row]]]] = {
        UsageError: [
            lambda: engine.generate((10**9,), Sampling(4), 0),
            lambda: engine.generate((-1,), Sampling(4), 0),
            lambda: engine.generate(prompt(5), Sampling(4, forced=(10**6,)), 0),
            lambda: engine.generate(prompt(10) * 1000, Sampling(4), 0),
            lambda: engine.generate((5.5, 6), Sampling(4), 0),  # type: ignore[arg-type]
            lambda: engine.generate((None, 6), Sampling(4), 0),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4.5), 0),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4), 0.5),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4, banned=(5.5,)), 0),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4, top=-1), 0),
            lambda: engine.generate(prompt(5), Sampling(4, top=2.5), 0),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4, top_k=2.5), 0),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4, min_tokens=-1), 0),
            lambda: engine.generate(prompt(5), Sampling(4, presence=math.nan), 0),
            lambda: engine.generate(prompt(5), Sampling(4, frequency=math.inf), 0),
            lambda: engine.generate(prompt(5), Sampling(4, frequency=1e39), 0),
            lambda: engine.generate(prompt(5), Sampling(4, temperature="hot"), 0),  # type: ignore[arg-type]
            lambda: engine.generate(prompt(5), Sampling(4, stop=("x", "")), 0),
            lambda: engine.read(prompt(5), top=-1),
            lambda: engine.generate(prompt(5), Sampling(4, banned=(10**6,)), 0),
            lambda: engine.generate(prompt(5), Sampling(-4), 0),
            lambda: engine.generate(prompt(5), Sampling(4), -1),
            lambda: engine.generate(prompt(5), Sampling(4, temperature=-1.0), 0),
            lambda: engine.generate(prompt(5), Sampling(4, repetition=0.0), 0),
            lambda: engine.generate(prompt(5), Sampling(4, top_p=float("nan")), 0),
            *(biased(token, bias) for token, bias in STRANGE),
        ],
        ModelError: [
            lambda: engine.generate(prompt(6), Sampling(4, banned=tuple(range(tiny.VOCABULARY))), 0),
            lambda: engine.generate(prompt(6), Sampling(4), 0, hook=lambda row, logits: Steer(bias=EVERY)),
        ],
        ZeroDivisionError: [
            lambda: engine.generate(prompt(6), Sampling(4), 0, hook=broken),
            lambda: engine.generate(prompt(7), Sampling(4), 0, lambda row: 1 // 0),  # type: ignore[arg-type, return-value]
        ],
    }
    found = list[Row]()

    async def good() -> None:
        found.append(await engine.generate(prompt(5), Sampling(40), 0))

    async def fails(kind: type[Exception], ask: Callable[[], Awaitable[Row]]) -> None:
        with pytest.raises(kind):
            await ask()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(good)
        for kind, asks in bad.items():
            for ask in asks:
                tasks.start_soon(fails, kind, ask)
    assert found[0].tokens == want
    check_idle(engine)


async def test_alternatives_are_all_tokens_at_most(make: Callable[..., Engine]) -> None:
    engine = make()
    for row in (await engine.read(prompt(6), top=10**6), await engine.generate(prompt(6), Sampling(5, top=10**6), 0)):
        assert [len(top) for top in row.top] == [tiny.VOCABULARY] * 5


async def test_a_step_that_fails_fails_who_is_in_it(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five rows, two at a time, the first two; the others wait, and have their turn."""
    engine, calls = make(rows=2), count()
    asked = [(prompt(5, i), Sampling(20), i) for i in range(5)]
    want = [row.tokens for row in await together(make(), asked)]
    forward = batch.forward

    def third(*given: Any) -> torch.Tensor:
        if next(calls) == 2:
            raise MemoryError
        return forward(*given)

    monkeypatch.setattr(batch, "forward", third)
    found, failed = dict[int, list[int]](), list[int]()

    async def one(i: int) -> None:
        try:
            found[i] = (await engine.generate(*asked[i])).tokens
        except MemoryError:
            failed.append(i)

    async with anyio.create_task_group() as tasks:
        for i in range(5):
            tasks.start_soon(one, i)
    assert len(failed) == 2
    assert found == {i: want[i] for i in range(5) if i not in failed}
    check_idle(engine)


async def test_an_error_outside_of_steps_is_everyones(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    monkeypatch.setattr(engine.batch, "run", lambda **given: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await engine.generate(prompt(5), Sampling(4), 0)
    check_idle(engine)


async def test_no_more_is_asked_for_than_there_are_positions(folder: Path) -> None:
    model = replace(load(folder), eos=frozenset())
    engine = Engine(replace(model, shape=replace(model.shape, positions=64)), lambda row: False)
    small = Engine(engine.model, lambda row: False, kv_bytes=10 * engine.batch.pages.page_bytes)
    row = await small.generate(prompt(5), Sampling(10**9), 0)
    assert (len(row.tokens), row.finish) == (60, "length")
    check_idle(small)


def test_a_native_cancellation_waits_for_the_step(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio's own `cancel` leaves the worker thread where it is: what it reads stays as it is until it is through."""
    engine, want = make(), anyio.run(make().generate, prompt(9, 2), Sampling(60), 1).tokens
    step, seen = engine.batch._step, list[tuple[int, int]]()

    def slow() -> None:
        before = len(engine.batch.live)
        time.sleep(0.02)
        seen.append((before, len(engine.batch.live)))
        step()

    monkeypatch.setattr(engine.batch, "_step", slow)

    async def main() -> list[int]:
        begun = asyncio.Event()
        leader = asyncio.create_task(engine.generate(prompt(7), Sampling(60), 0, lambda row: begun.set()))
        await asyncio.sleep(0)
        other = asyncio.create_task(engine.generate(prompt(9, 2), Sampling(60), 1))
        await begun.wait()  # after the first hop; the second goes on while it is cancelled
        leader.cancel()
        return (await other).tokens

    assert asyncio.run(main()) == want
    assert all(before == after for before, after in seen)
    check_idle(engine)


def test_another_thread_is_refused_while_some_wait(make: Callable[..., Engine]) -> None:
    engine, refused = make(), list[str]()

    def other() -> None:
        with pytest.raises(UsageError, match="another thread") as caught:
            anyio.run(engine.generate, prompt(5), Sampling(4), 0)
        refused.append(str(caught.value))

    def progress(row: Row) -> None:
        if not refused:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    async def main() -> Row:
        return await engine.generate(prompt(5), Sampling(20), 0, progress)

    assert len(anyio.run(main).tokens) == 20
    assert len(refused) == 1
    assert len(anyio.run(engine.generate, prompt(5), Sampling(4), 0).tokens) == 4
    check_idle(engine)


def test_who_comes_from_another_thread_while_the_queue_is_tidied_is_not_lost(make: Callable[..., Engine]) -> None:
    engine, written = make(), list[int]()
    other = threading.Thread(
        target=lambda: written.append(len(anyio.run(engine.generate, prompt(5), Sampling(4), 0).tokens)), daemon=True
    )

    class Watched(deque[Row]):
        def __iter__(self) -> Iterator[Row]:
            yield from super().__iter__()
            if not other.ident:  # all is copied, and the copy is not there yet
                other.start()
                other.join(0.3)

    async def main() -> None:
        with anyio.CancelScope() as scope:
            await engine.generate(prompt(6), Sampling(4), 0, lambda row: scope.cancel())
        engine.batch.waiting = Watched()
        engine._hand_over()

    anyio.run(main)
    other.join(10)
    assert written == [4]
    check_idle(engine)


async def test_logits_that_are_not_numbers_fail_their_own_row(folder: Path) -> None:
    model = replace(load(folder), eos=frozenset())
    model.embedding[7] = torch.nan  # only those that read token 7 are hurt
    engine = Engine(model, lambda row: False)
    ids = tuple(i for i in prompt(20) if i != 7)
    how = Sampling(30, banned=(7,))
    want = [(await Engine(model, lambda row: False).generate(ids, how, s)).tokens for s in range(4)]
    for _ in range(3):
        found, failed = list[list[int]](), list[str]()

        async def good(s: int, found: list[list[int]] = found) -> None:
            found.append((await engine.generate(ids, how, s)).tokens)

        async def bad(s: int, failed: list[str] = failed) -> None:
            forced = (*ids[:s], 7)  # in the middle of decoding, or in the prompt
            asked = (ids, Sampling(20, forced=forced)) if s else ((*ids, 7, 8), Sampling(20))
            with pytest.raises(ModelError, match="not numbers") as caught:
                await engine.generate(*asked, s)
            failed.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            for s in range(4):
                tasks.start_soon(bad, s)
                tasks.start_soon(good, s)
        assert sorted(found) == sorted(want)
        assert len(failed) == 4
    check_idle(engine)


def test_one_engine_serves_one_loop_after_another(make: Callable[..., Engine]) -> None:
    engine = make()
    backends = ("asyncio", "trio", "asyncio")
    found = [anyio.run(engine.generate, prompt(7), Sampling(12), 5, backend=backend).tokens for backend in backends]
    assert found[0] == found[1] == found[2]
    check_idle(engine)


# sampling


def drawn(logits: list[float], how: Sampling) -> set[int]:
    """The tokens that can come out at all."""
    uniforms = torch.linspace(0, 1, 500, dtype=torch.double)[:-1]
    rows = torch.tensor([logits]).expand(len(uniforms), -1)
    found: list[int] = choose(rows, Columns([how] * len(uniforms)), uniforms).tolist()
    return set(found)


LOGITS = torch.tensor([0.4, 0.1, 0.3, 0.2]).log().tolist()


@pytest.mark.parametrize(("how", "tokens"), [
    (Sampling(1), {0, 1, 2, 3}),
    (Sampling(1, temperature=0.0), {0}),
    (Sampling(1, top_p=0.65), {0, 2}),
    (Sampling(1, top_p=0.75), {0, 2, 3}),
    (Sampling(1, top_p=1e-9), {0}),
    (Sampling(1, top_p=0.0), {0}),
    (Sampling(1, min_p=0.4), {0, 2, 3}),
    (Sampling(1, min_p=0.7), {0, 2}),
    (Sampling(1, min_p=1.0), {0}),
    (Sampling(1, min_p=0.4, top_p=0.65), {0, 2}),
    (Sampling(1, temperature=1e-9), {0}),
])  # fmt: skip
def test_only_what_is_allowed_is_drawn(how: Sampling, tokens: set[int]) -> None:
    assert drawn(LOGITS, how) == tokens


def test_tokens_come_at_their_probabilities() -> None:
    uniforms = torch.linspace(0, 1, 1001, dtype=torch.double)[:-1]
    found = choose(torch.tensor([LOGITS]).expand(1000, -1), Columns([Sampling(1)] * 1000), uniforms)
    assert torch.bincount(found).tolist() == pytest.approx([400, 100, 300, 200], abs=2)
    hot = choose(torch.tensor([LOGITS]).expand(1000, -1), Columns([Sampling(1, temperature=2.0)] * 1000), uniforms)
    roots = torch.tensor([0.4, 0.1, 0.3, 0.2]).sqrt()
    assert (torch.bincount(hot) / 1000).tolist() == pytest.approx((roots / roots.sum()).tolist(), abs=0.003)


def test_rows_have_their_own_parameters() -> None:
    how = [Sampling(1, temperature=0.0), Sampling(1), Sampling(1, top_p=0.1), Sampling(1, min_p=0.7)]
    assert choose(torch.tensor([LOGITS] * 4), Columns(how), torch.tensor([0.99] * 4, dtype=torch.double)).tolist() == [
        0,
        3,
        0,
        2,
    ]


# local models

ASK = ({"role": "user", "content": "chain 5\n1) +2\n"},)


def forced(local: Local, text: str, **how: Any) -> Request:
    ids = local.reader.encode(text)
    return Request(ASK, max_tokens=len(ids), forced=ids, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stop", "text"), [
    (("r: 57",), "12answer: 57"), (("\n",), "12answer: 57\n"), (("answer: ",), "12answer: "), (("ans",), "12answer: "),
    (("2answer: 57\n",), "12answer: 57\n"), (("x", "7\n"), "12answer: 57\n"), (("2an",), "12answer: "),
])  # fmt: skip
async def test_stop_strings_across_tokens(local: Local, stop: tuple[str, ...], text: str) -> None:
    done = await local.extend(forced(local, "12answer: 57\n8", stop=stop), Call((), 0))
    assert (done.text, done.finish) == (text, "stop")


@pytest.mark.parametrize("changes", [{"max_tokens": 0}, {"logprobs": -1}, {"stop": ("",)}])
async def test_a_senseless_request_is_refused(local: Local, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        await local.extend(replace(Request(ASK, max_tokens=4), **changes), Call((), 0))
    check_idle(local.engine)


async def test_what_is_forced_is_taken_and_read(local: Local) -> None:
    done = await local.extend(forced(local, "1) 5+2=7\n"), Call((), 0))
    assert (done.text, done.finish) == ("1) 5+2=7\n", "length")
    scored = await local.loglikelihood(Request(ASK), "1) 5+2=7\n", Call((), 0))
    assert scored == pytest.approx(done.logprobs, abs=1e-4)
    assert await local.loglikelihood(Request(ASK), "", Call((), 0)) == ()


async def test_a_draft_goes_on_by_its_ids(local: Local) -> None:
    whole = await local.extend(Request(ASK, max_tokens=12, temperature=0), Call((), 0))
    first = await local.extend(Request(ASK, max_tokens=5, temperature=0), Call((), 0))
    draft = Draft(None, first.text, first.tokens, first.logprobs, 5)
    rest = await local.extend(Request(ASK, draft, 7, temperature=0), Call((), 0))
    assert (*first.tokens, *rest.tokens) == whole.tokens
    assert first.text + rest.text == whole.text
    assert rest.cost.cached_tokens == rest.cost.prompt_tokens - 1


async def test_no_request_costs_more_than_its_bound(local: Local) -> None:
    for stop in ((), ("\n",)):
        request = Request(ASK, max_tokens=9, stop=stop)
        cost = (await local.extend(request, Call((), 1))).cost
        assert all(spent <= most for spent, most in zip(cost, local.bound(request), strict=True))
        assert cost.calls == 1
        assert cost.flops > 0


async def test_a_cancelled_call_has_told_its_cost(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "HOP", 0.0)

    class Impatient(Call):
        def progress(self, cost: Cost) -> None:
            super().progress(cost)
            scope.cancel()

    call = Impatient((), 2)  # whose text is long
    with anyio.CancelScope() as scope:
        await local.extend(Request(ASK, max_tokens=400), call)
    assert scope.cancelled_caught
    assert call.so_far is not None
    assert 0 < call.so_far.new_tokens < 400


async def test_a_reward_model_grades_each_step(reward: tuple[Path, Any]) -> None:
    model = RewardModel(reward[0])
    draft = Draft(None, "1) 5+2=7\n")
    one, first = await model.grade(ASK, draft, None)
    two, second = await model.grade(ASK, Draft(draft, "answer: 7", finish="end"), draft)
    assert len(one.steps) == 1
    assert one.value == one.steps[0]
    assert two.steps == pytest.approx((one.value, two.value))
    assert (first.verifier_calls, second.verifier_calls) == (1, 1)
    assert second.verifier_tokens == 3  # "answer: ", "7", and the end of the text
    assert first.verifier_tokens <= model.bound(ASK, draft, None).verifier_tokens
