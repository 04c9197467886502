"""The compiled kernels compute what plain tensors do, for rows of any length, and the engine does without them as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.engine import compiled, kernels
from forethought.engine.attention import Rows
from forethought.engine.engine import Engine
from forethought.engine.placement import PLAIN, Placement
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from tests import tiny
from tests.test_engine import KINDS, check_against, check_idle, logits_of, prompt, together

pytestmark = pytest.mark.anyio
HERE = pytest.mark.skipif(not compiled.compiles(torch.device("cpu")), reason="needs the OpenMP of GNU")
TYPES = (torch.float32, torch.bfloat16)
WHERE = {torch.float32: PLAIN, torch.bfloat16: Placement(torch.device("cpu"), torch.bfloat16)}
OFF = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the largest


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system whose torch has another OpenMP."""
    monkeypatch.setattr(compiled, "_team", lambda: None)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled")
    tiny.generator(path)
    return path


def alike(found: torch.Tensor, want: torch.Tensor) -> bool:
    return bool((found.float() - want.float()).abs().max() <= OFF[found.dtype] * want.abs().max())


# each kernel


@HERE
def test_exp_is_that_of_numpy_and_keeps_what_is_no_number() -> None:
    for x in np.linspace(-87, 87, 1001, dtype=np.float32):
        assert kernels._exp(x) == pytest.approx(float(np.exp(np.float64(x))), rel=2e-7 * max(1.0, abs(float(x))))
    assert kernels._exp(np.float32(-np.inf)) < 1e-37
    assert kernels._exp(np.float32(1e30)) > 1e37
    assert np.isnan(kernels._exp(np.float32(np.nan)))


def in_slots(q: torch.Tensor, kv: torch.Tensor, columns: Sequence[int], parts: Any = ()) -> torch.Tensor:
    """`mix` where nothing is in the pool."""
    none = torch.zeros(len(columns) + 1, dtype=torch.long)
    own = compiled.Own(torch.tensor(columns), none, none[:0], max(columns) + 1)
    return compiled.mix(q, kv, kv[:, 0, :, :0].contiguous(), own, list(parts))


def mixed(q: torch.Tensor, kv: torch.Tensor, columns: list[int], parts: list[Any]) -> torch.Tensor:
    """What `mix` says, row by row."""
    rows, found = len(q), list[torch.Tensor]()
    for row in range(rows):
        keys, values = kv[:, row, :, : columns[row] + 1].float()
        scores = q[row].float() @ keys.mT
        weights = torch.cat([scores, *(total[row] for _, total in parts)], -1).softmax(-1)
        whole = weights[..., : columns[row] + 1] @ values
        for p, (output, _) in enumerate(parts, columns[row] + 1):
            whole = whole + weights[..., p : p + 1] * output[row]
        found.append(whole.flatten())
    return torch.stack(found)


@HERE
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 90), min_size=1, max_size=20),
    st.sampled_from([(1, 1, 8), (2, 2, 32), (3, 3, 64), (2, 1, 20)]),
    st.integers(0, 3),
    st.sampled_from(TYPES),
    st.integers(0, 1000),
)
def test_mix_is_one_softmax_over_columns_and_parts(
    columns: list[int], heads: tuple[int, int, int], parts: int, dtype: torch.dtype, seed: int
) -> None:
    kv_heads, group, head_dim = heads
    rows, draw = len(columns), torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    q = random(kv_heads, rows, group, head_dim).to(dtype).transpose(0, 1)
    kv = random(2, rows + 1, kv_heads, 91, head_dim).to(dtype)
    given = [
        (random(kv_heads, rows, group, head_dim).transpose(0, 1), random(rows, kv_heads, group, 1))
        for _ in range(parts)
    ]
    for _, total in given:
        total[::3] = -torch.inf  # these rows do not read it
    found = in_slots(q, kv, columns, given)
    assert found.dtype == dtype
    assert alike(found, mixed(q, kv, columns, given))
    spans = [span for n in columns for span in ((5 * n, n // 3), (3 * n, n - n // 3))]  # as much again, in two places
    pool, first = random(2, kv_heads, 700, head_dim).to(dtype), 2 * torch.arange(rows + 1)
    whole = torch.stack([
        torch.cat([kv[:, row, :, : n + 1], *(pool[:, :, at : at + length] for at, length in spans[2 * row : 2 * row + 2]),
                   torch.zeros(2, kv_heads, 182 - 2 * n, head_dim, dtype=dtype)], 2)
        for row, n in enumerate(columns)
    ], 1)  # fmt: skip
    own = compiled.Own(torch.tensor(columns), first, torch.tensor(spans), 2 * max(columns) + 1)
    found = compiled.mix(q, kv, pool, own, given)
    assert alike(found, mixed(q, whole, [2 * n for n in columns], given))


@HERE
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_no_number_stays_in_its_row(dtype: torch.dtype) -> None:
    q, kv = torch.randn(4, 2, 2, 8).to(dtype), torch.randn(2, 4, 2, 50, 8).to(dtype)
    kv[0, 1, :, 33], kv[1, 2, :, 0] = torch.nan, torch.inf
    kv[:, 3, :, 41:] = torch.nan  # behind its end
    found = in_slots(q, kv, [40] * 4)
    assert found.isfinite().all(-1).tolist() == [True, False, False, True]


@HERE
def test_bfloat16_is_rounded_to_even() -> None:
    x, qkv = torch.zeros(64, 4), torch.randn(64, 3 * 8).bfloat16()
    x[:, 0] = 3.0
    kv, places = torch.zeros(2, 64, 1, 1, 8).bfloat16(), torch.arange(64)[:, None] + torch.tensor([0, 64])
    turns = torch.ones(64, 1, 4, dtype=torch.complex64)
    q = compiled.turn(x, qkv, None, None, (0.0, 0.0), turns, places, kv)
    want = (qkv.float() * (1 / torch.tensor(3.0))).bfloat16()
    assert torch.equal(torch.cat([q.flatten(1), kv[0].flatten(1), kv[1].flatten(1)], 1), want)


@HERE
@pytest.mark.parametrize("dtype", TYPES)
def test_a_team_computes_what_one_thread_does(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate_up = torch.randn(100, 32), torch.randn(100, 2 * 48).to(dtype)
    q, kv = torch.randn(100, 2, 2, 8).to(dtype), torch.randn(2, 100, 2, 50, 8).to(dtype)
    columns, found = [i % 50 for i in range(100)], list[torch.Tensor]()
    for least in (0, 1 << 60):
        monkeypatch.setattr(compiled, "TEAM", least)
        found += [compiled.gate(x, gate_up, 1e-5), in_slots(q, kv, columns)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])
    gates, ups = (gate_up.float() / (x.square().sum(-1, keepdim=True) + 1e-5).sqrt()).chunk(2, -1)
    assert alike(found[0], torch.nn.functional.silu(gates) * ups)


@HERE
def test_kernels_are_compiled_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = compiled._compiled

    def homeless(body: Callable[..., None], cache: bool) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return inner(body, cache)

    monkeypatch.setattr(compiled, "_compiled", homeless)
    assert compiled._kernel.__wrapped__("gate", torch.float32).address


# the engine with them and without


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.usefixtures("plain")
@torch.inference_mode()
def test_without_them_families_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    check_against(tiny.of_family(family, tmp_path), tmp_path, 24)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("plain")
@torch.inference_mode()
def test_without_them_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    check_against(tiny.generator(tmp_path, **KINDS[kind]), tmp_path, 24)


async def groups(engine: Engine) -> tuple[torch.Tensor, list[list[int]]]:
    """The logits of one row among groups that share beginnings of their own, and what those write."""
    found, ids = list[torch.Tensor](), (*prompt(200, 1), *prompt(20, 9))

    async def mine() -> None:
        found.append(await logits_of(engine, ids, 200))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mine)
        rows = await together(engine, [(prompt(150 + 9 * (i % 4), i % 4), Sampling(20), i) for i in range(40)])
    check_idle(engine)
    return found[0], [row.tokens for row in rows]


@HERE
@pytest.mark.parametrize("dtype", TYPES)
async def test_the_engine_says_the_same_without_them(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine() -> Engine:
        return Engine(replace(load(folder, where=WHERE[dtype]), eos=frozenset()), lambda row: False)

    with_them, texts = await groups(engine())
    monkeypatch.setattr(compiled, "_team", lambda: None)
    without, other_texts = await groups(engine())
    assert (with_them - without).abs().max() <= 5 * OFF[dtype] * without.abs().max()
    assert dtype == torch.bfloat16 or texts == other_texts


def test_decoding_rows_are_compiled_where_they_can_be(folder: Path) -> None:
    engine = Engine(load(folder), lambda row: False)
    lanes, lane = list[Any](), engine.batch.seats.layout._decode_lane
    engine.batch.seats.layout._decode_lane = lambda rows: lanes.append(lane(rows)) or lanes[-1]  # type: ignore[method-assign, func-returns-value]
    anyio.run(engine.generate, prompt(5), Sampling(3), 0)
    assert all(isinstance(lane, Rows) == compiled.compiles(torch.device("cpu")) for lane in lanes)
    assert lanes
