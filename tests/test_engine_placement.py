"""Where the engine computes and in which type: the choice, and that bfloat16 changes no more than rounding does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from transformers import LlamaForCausalLM

from forethought.core.draft import ROOT, Draft
from forethought.engine import attention, weights
from forethought.engine.engine import Engine
from forethought.engine.llama import Llama
from forethought.engine.placement import PLAIN, SMALL, Placement, best, placed, sent, told
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.local import Local
from forethought.models.names import model_named
from forethought.models.reward import RewardModel
from forethought.reasoner import loader as reasoner
from tests import tiny
from tests.test_engine import KINDS, Ids, check_idle, logits_of, prompt, read_by, together

pytestmark = pytest.mark.anyio

BF16 = Placement(torch.device("cpu"), torch.bfloat16)
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
HALF = [
    pytest.param(BF16, id="cpu"),
    pytest.param(Placement(torch.device("cuda"), torch.bfloat16), id="cuda", marks=GPU),
]
ASKS = ["chain 5\n1) +2\n2) *3\n", "chain 41\n1) -7\n2) +20\n3) *2\n", "chain 12\n1) *4\n2) -9\n3) +3\n4) -8\n"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("placed")
    tiny.generator(path)
    return path


def engine_of(path: Path, where: Placement, **how: Any) -> Engine:
    return Engine(replace(load(path, where=where), eos=frozenset()), lambda row: False, **how)


# the choice


@pytest.mark.parametrize(("gpu", "native", "told", "want"), [
    (True, True, {"avx512_bf16": False}, ("cuda", torch.bfloat16)),
    (True, False, {"avx512_bf16": True}, ("cuda", torch.float32)),
    (False, True, {"avx512_bf16": True, "amx_bf16": False}, ("cpu", torch.bfloat16)),
    (False, True, {"avx512_bf16": False, "amx_bf16": True}, ("cpu", torch.bfloat16)),
    (False, True, {"avx512_bf16": False, "amx_bf16": False}, ("cpu", torch.float32)),
    (False, True, {"architecture": "aarch64"}, ("cpu", torch.float32)),
])  # fmt: skip
def test_the_hardware_decides(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, native: bool, told: dict[str, Any], want: tuple[str, torch.dtype]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert best(SMALL) == Placement(torch.device(want[0]), want[1])
    assert best(SMALL - 1) == (best(SMALL) if gpu else PLAIN)


def test_an_older_torch_that_cannot_tell_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert best(SMALL) == PLAIN


def test_a_model_goes_where_it_runs_best(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(weights, "best", lambda parameters: BF16)
    model = Local(folder).engine.model
    assert model.dtype == torch.bfloat16
    assert {m.dtype for layer in model.layers for m in (layer.qkv, layer.out, layer.gate_up, layer.down)} == {
        model.dtype
    }
    assert model.head.dtype == model.dtype
    assert model.embedding.dtype == model.norm.dtype == torch.float32
    assert load(folder, "int8").dtype == torch.float32


@pytest.mark.parametrize("where", HALF)
def test_fp32_is_asked_for_in_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, where: Placement) -> None:
    """Nothing is in bfloat16, on the place that would have been chosen anyway."""
    monkeypatch.setattr(weights, "best", lambda parameters: where)
    tiny.generator(tmp_path)
    local = model_named(f"local:{tmp_path}+fp32")
    assert isinstance(local, Local)
    assert local.name == f"local:{tmp_path}+fp32"
    model, slots = local.engine.model, local.engine.batch.seats.layout.slots
    parts = [part for layer in model.layers for part in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    assert {part.dtype for part in parts} == {model.dtype} == {slots.dtype} == {torch.float32}
    assert {part.device.type for part in (model.embedding, *parts)} == {where.device.type}
    want, found = [anyio.run(logits_of, e, prompt(60, 1), 40) for e in (engine_of(tmp_path, PLAIN), local.engine)]
    assert (found.cpu() - want).abs().max() <= 1e-4 * want.abs().max()


@pytest.mark.parametrize("tied", [False, True])
def test_nothing_is_copied_that_need_not_be(tmp_path: Path, tied: bool) -> None:
    tiny.generator(tmp_path, tie_word_embeddings=tied)
    plain = load(tmp_path, where=PLAIN)
    again, half = placed(plain, PLAIN), placed(plain, BF16)
    assert storages(again) == storages(plain)
    assert (again.head.data_ptr() == again.embedding.data_ptr()) is tied
    assert half.head.stride() == plain.head.stride()
    assert half.layers[0].qkv.stride() == plain.layers[0].qkv.stride()


def storages(model: Llama) -> list[int]:
    parts = [p for layer in model.layers for p in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    return [t.data_ptr() for t in (model.embedding, model.norm, model.head, model.shape.inverse_frequencies, *parts)]


async def test_keys_and_values_take_half_the_memory(folder: Path) -> None:
    plain, half = engine_of(folder, PLAIN, kv_bytes=1 << 20), engine_of(folder, BF16, kv_bytes=1 << 20)
    assert half.batch.pages.count == 2 * plain.batch.pages.count
    await half.generate(prompt(20), Sampling(4), 0)
    (node,) = half.batch.tree.root.children.values()
    assert half.batch.pages.view(node.span).dtype == half.batch.seats.layout.slots.dtype == torch.bfloat16


# the same numbers, but for rounding


def errors(theirs: Any, path: Path, where: Placement, ids: Ids, start: int) -> tuple[float, float]:
    """How far logits are from those in fp32, relative to their norm: ours, and transformers' own in bfloat16."""
    want = read_by(theirs, ids)[start - 1 :]
    rounded = read_by(theirs.bfloat16(), ids)[start - 1 :]
    found = anyio.run(logits_of, engine_of(path, where), ids, start)
    assert found.dtype == torch.float32
    return tuple(float((logits.cpu() - want).norm() / want.norm()) for logits in (found, rounded))  # type: ignore[return-value]


@pytest.mark.parametrize("where", HALF)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_as_near_to_fp32_as_those_of_transformers(kind: str, where: Placement, tmp_path: Path) -> None:
    ours, theirs = errors(tiny.generator(tmp_path, **KINDS[kind]), tmp_path, where, prompt(60, 1), 40)
    assert 1e-4 < ours <= 1.5 * theirs  # rounding errors of two orders of summation: neither is the other's bound
    assert ours <= 0.05


@pytest.mark.parametrize("where", HALF)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_families_are_as_near_to_fp32_as_those_of_transformers(family: str, where: Placement, tmp_path: Path) -> None:
    ours, theirs = errors(tiny.of_family(family, tmp_path), tmp_path, where, prompt(60, 1), 40)
    assert 1e-4 < ours <= 1.5 * theirs
    assert ours <= 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_plain_products_are_the_kernel_for_processors(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, keys, values = (torch.randn(1, 2, tokens, 16).to(dtype) for tokens in (12, 70, 70))
    mask = torch.zeros(1, 1, 1, 70, dtype=dtype)
    mask[..., 50:] = -torch.inf
    largest = float((q.float() @ keys.float().mT).abs().max())  # of the scores, which the products round once
    short = q, keys[:, :, :50], values[:, :, :50]
    for one, other in (
        *zip(attention._flash(q, keys, values, None), attention._products(q, keys, values, None), strict=True),
        *zip(attention._flash(q, keys, values, mask), attention._products(*short, None), strict=True),
        *zip(attention._flash(*short, None), attention._products(q, keys, values, mask), strict=True),
    ):
        assert one.dtype == other.dtype == torch.float32
        assert (one - other).abs().max() <= torch.finfo(dtype).eps * largest


@pytest.mark.parametrize("where", HALF)
@pytest.mark.parametrize("neighbours", [1, 7, 64])
async def test_neighbours_change_no_logit_by_more_than_rounding(
    folder: Path, where: Placement, neighbours: int, anyio_backend: str
) -> None:
    """And the same company gives the same tokens; shared prefixes are merged with what is a row's own."""
    how, ids = Sampling(20), (*prompt(100), *prompt(20, 9))
    alone, exact = [await logits_of(engine_of(folder, at), ids, 100) for at in (where, PLAIN)]
    texts = list[list[list[int]]]()
    for _ in range(2):
        engine, found, rows = engine_of(folder, where, rows=80), list[torch.Tensor](), dict[int, list[int]]()

        async def mine(engine: Engine, found: list[torch.Tensor]) -> None:
            found.append(await logits_of(engine, ids, 100))

        async def other(i: int, engine: Engine, rows: dict[int, list[int]]) -> None:
            begin = ids[:90] if i % 2 else ()
            rows[i] = (await engine.generate((*begin, *prompt(3 + i % 17, 100 + i)), how, i)).tokens

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mine, engine, found)
            for i in range(neighbours):
                tasks.start_soon(other, i, engine, rows)
        assert (found[0] - alone).norm() <= 0.05 * alone.norm()
        assert (found[0].cpu() - exact).norm() <= 0.05 * exact.norm()
        texts.append([rows[i] for i in range(neighbours)])
        check_idle(engine)
    if where.device.type == "cpu" and anyio_backend == "asyncio":  # trio starts tasks in any order
        assert texts[0] == texts[1]


@pytest.mark.parametrize("where", HALF)
async def test_all_controls_in_one_batch(folder: Path, where: Placement) -> None:
    """What each control does is tested elsewhere; here all of them meet on the device."""
    engine, plain, ids = engine_of(folder, where), engine_of(folder, PLAIN), prompt(30)
    hows = [
        Sampling(12, temperature=0.0), Sampling(12, top_k=5), Sampling(12, top_p=0.8, min_p=0.05, top=4),
        Sampling(12, repetition=1.3, presence=0.2, frequency=0.1, banned=(5, 6)), Sampling(12, forced=(9, 8, 7), top=2),
    ]  # fmt: skip
    rows = await together(engine, [((*ids, i + 4), how, i) for i, how in enumerate(hows)])
    assert [len(row.tokens) for row in rows] == [12] * 5
    assert rows[4].tokens[:3] == [9, 8, 7]
    assert not {5, 6} & set(rows[3].tokens)
    assert [[len(told) for told in row.top] for row in rows] == [[], [], [4] * 12, [], [2] * 12]
    read = await engine.read((*rows[2].ids, *rows[2].tokens), top=3)
    assert read.logprobs[-12:] == pytest.approx(rows[2].logprobs, abs=0.6)
    exact = await plain.loglikelihood(rows[2].ids, rows[2].tokens)
    assert rows[2].logprobs == pytest.approx(exact, abs=0.6)
    check_idle(engine)


def test_numbers_go_to_a_device_and_come_back() -> None:
    cpu = torch.device("cpu")
    assert told(sent([3, 5], torch.long, cpu), sent([0.5, -1.0], torch.double, cpu)) == [[3, 5], [0.5, -1.0]]


@GPU
async def test_fp32_on_a_gpu_is_fp32(folder: Path) -> None:
    where, ids = Placement(torch.device("cuda"), torch.float32), prompt(60, 1)
    want = await logits_of(engine_of(folder, PLAIN), ids, 40)
    found = await logits_of(engine_of(folder, where), ids, 40)
    assert (found.cpu() - want).abs().max() <= 1e-4 * want.abs().max()


# the models that come with the package


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Callable[[Placement], None]:
    return lambda where: monkeypatch.setattr(weights, "best", lambda parameters: where)


@pytest.mark.parametrize("where", HALF)
@torch.inference_mode()
def test_the_reasoners_logits_and_greedy_texts(where: Placement, forced: Callable[[Placement], None]) -> None:
    """Logits within 3 % of the largest along its own texts; these are equal up to where two tokens are nearer than that."""
    forced(where)
    path = reasoner.folder("generator")
    theirs, local = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), Local(path)
    compared = length = 0
    for ask in ASKS:
        ids = local.ids(({"role": "user", "content": ask},), ROOT)
        row: Row = anyio.run(local.engine.generate, ids, Sampling(40, temperature=0.0), 0)
        text = (*ids, *row.tokens)
        want = read_by(theirs, text)[len(ids) - 1 : -1]
        found = anyio.run(logits_of, local.engine, text[:-1], len(ids)).cpu()
        largest = want.abs().max()
        assert (found - want).abs().max() <= 0.03 * largest
        first, second = want.topk(2).values.unbind(1)
        near = (first - second <= 0.06 * largest).nonzero().flatten().tolist()
        sure = near[0] if near else len(row.tokens)
        assert row.tokens[:sure] == want.argmax(-1)[:sure].tolist()
        compared, length = compared + sure, length + len(row.tokens)
    assert compared >= 0.5 * length


@pytest.mark.parametrize("where", HALF)
def test_grades_are_within_a_hundredth(where: Placement, forced: Callable[[Placement], None]) -> None:
    drafts = [Draft(None, "1) 5+2=7\n2) 7*3=21\nanswer: 21", finish="end"), Draft(None, "1) 5+2=8\n2) 8*3=24\n")]
    grades = list[list[float]]()
    for at in (PLAIN, where):
        forced(at)
        model = RewardModel(reasoner.folder("reward"))
        messages = ({"role": "user", "content": ASKS[0]},)
        grades.append([g for draft in drafts for g in anyio.run(model.grade, messages, draft, None)[0].steps])
    assert len(grades[0]) == 5
    assert grades[1] == pytest.approx(grades[0], abs=0.01)
    assert max(grades[0]) - min(grades[0]) > 0.05  # of texts on which it is not indifferent
