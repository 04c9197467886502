"""Local models: texts that join, stop strings and costs under a real byte-level tokenizer, and what the engine saves."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM

from forethought.core.cost import Cost
from forethought.core.draft import ROOT, Draft
from forethought.core.errors import UsageError
from forethought.core.scope import Call
from forethought.engine import batch
from forethought.engine.engine import Engine
from forethought.engine.matrix import Int8, Packed, add_times, packed, times
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.local import Local
from forethought.models.names import bytes_of, model_named
from forethought.models.protocol import Completion, Request
from forethought.reasoner import loader as reasoner
from tests import tiny
from tests.test_engine import check_idle, logits_of, prompt, together

pytestmark = pytest.mark.anyio

ASK = ({"role": "user", "content": "chain 5\n"},)
MANY_BYTES = "größer 日本語😀. done"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generator")
    tiny.generator(path)
    return path


@pytest.fixture(scope="session")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A model whose tokens are single bytes, so that most of its characters take several."""
    path = tmp_path_factory.mktemp("bytewise")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tiny.generator(path, vocab_size=len(alphabet) + 1, eos_token_id=len(alphabet))
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return Local(path)


@pytest.fixture
def make(folder: Path) -> Callable[..., Engine]:
    model = replace(load(folder), eos=frozenset())
    return lambda **how: Engine(model, lambda row: False, **how)


async def forced(local: Local, ids: tuple[int, ...], draft: Draft = ROOT, **how: Any) -> Completion:
    return await local.extend(Request(ASK, draft, len(ids), forced=ids, **how), Call((), 0))


# texts


@pytest.mark.parametrize("size", [1, 2, 5])
async def test_texts_of_steps_join_to_the_text_of_all_ids(bytewise: Local, size: int) -> None:
    ids, draft = bytewise.reader.encode(MANY_BYTES), ROOT
    for i in range(0, len(ids), size):
        done = await forced(bytewise, ids[i : i + size], draft)
        assert "\ufffd" not in done.text
        draft = Draft(draft, done.text, done.tokens, done.logprobs, vocabulary=done.vocabulary)
    assert draft.text == MANY_BYTES
    assert draft.ids == ids
    assert bytewise.ids(ASK, draft) == bytewise.ids(ASK, ROOT) + ids


async def test_a_broken_character_is_told_at_the_end(bytewise: Local) -> None:
    (eos,) = bytewise.engine.model.eos
    cut = bytewise.reader.encode("a日")[:-1]
    assert (await forced(bytewise, cut)).text == "a"
    done = await forced(bytewise, (*cut, eos))
    assert (done.text, done.finish, done.tokens) == ("a\ufffd", "end", cut)
    assert done.cost.new_tokens == len(cut) + 1


@pytest.mark.parametrize("stop", ["語", "😀", "本語", "r ", "\ufffd"])
async def test_stop_strings_of_many_bytes(bytewise: Local, stop: str) -> None:
    done = await forced(bytewise, bytewise.reader.encode(MANY_BYTES), stop=("never", stop))
    if stop == "\ufffd":
        return  # half a character reads like this one: it may stop there, and must not fail
    before, _, _ = MANY_BYTES.partition(stop)
    assert (done.text, done.finish) == (before + stop, "stop")


async def test_a_draft_without_ids_is_read_as_text(bytewise: Local) -> None:
    draft = Draft(Draft(None, "größ"), "er", bytewise.reader.encode("er"), vocabulary=bytewise.reader.vocabulary)
    done = await forced(bytewise, bytewise.reader.encode(" 日"), draft)
    assert done.text == " 日"
    assert done.cost.prompt_tokens == len(bytewise.ids(ASK, ROOT)) + len("größer".encode())


async def test_ids_of_another_vocabulary_are_read_as_text(bytewise: Local, folder: Path) -> None:
    """Their ids overlap: all of "12" in bytes are ids of the other model, too, where they stand for other words."""
    other = Local(folder)
    said = await forced(bytewise, bytewise.reader.encode("12"))
    draft = Draft(None, said.text, said.tokens, vocabulary=said.vocabulary)
    own = other.reader.encode("12")
    assert set(said.tokens) != set(own)
    assert max(said.tokens) < tiny.VOCABULARY
    assert other.ids(ASK, draft)[-len(own) :] == own
    assert other.ids(ASK, draft)[: -len(own)] == other.ids(ASK, ROOT)
    assert bytewise.ids(ASK, draft)[-2:] == said.tokens
    read = await other.loglikelihood(Request(ASK, draft), "3", Call((), 0))
    plain = await other.loglikelihood(Request(ASK, Draft(None, "12")), "3", Call((), 0))
    assert read == pytest.approx(plain, abs=1e-5)


async def test_models_of_one_vocabulary_take_over_ids_as_they_are(folder: Path, tmp_path: Path) -> None:
    tiny.generator(tmp_path, seed=1)
    one, two = Local(folder), Local(tmp_path)
    pair = tuple(one.reader.encode("1")[0:1] + one.reader.encode("2"))  # which is no way to encode "12"
    assert pair != one.reader.encode("12")
    said = await forced(one, pair)
    draft = Draft(None, said.text, said.tokens, vocabulary=said.vocabulary)
    assert two.ids(ASK, draft)[-2:] == pair


async def test_of_alternatives_that_read_the_same_the_likelier_counts(bytewise: Local) -> None:
    done = await bytewise.extend(Request(ASK, max_tokens=1, logprobs=200, temperature=0), Call((), 0))
    half = [i for i in range(256) if bytewise.reader.piece(i) == "\ufffd"]
    row = await bytewise.engine.generate(bytewise.ids(ASK, ROOT), Sampling(1, 0.0, top=200), 0)
    assert done.top[0]["\ufffd"] == max(value for token, value in row.top[0].items() if token in half)


# costs


async def test_what_a_call_costs(folder: Path) -> None:
    local = Local(folder)
    shape = local.engine.model.shape
    request = Request(ASK, max_tokens=6, temperature=0)
    done = await local.extend(request, Call((), 0))
    asked, new = len(local.ids(ASK, ROOT)), done.cost.new_tokens
    reads = sum(range(1, asked + new))  # the last token is not computed any more
    flops = 2 * shape.parameters * (asked + new - 1) + 4 * shape.layers * shape.heads * shape.head_dim * reads
    assert done.cost == Cost(
        calls=1, prompt_tokens=asked, new_tokens=new, flops=flops, kv_reads=reads, critical_tokens=new
    )


async def test_likelihoods_tell_their_cost(folder: Path) -> None:
    local, call = Local(folder), Call((), 0)
    assert len(await local.loglikelihood(Request(ASK), "1) 5", call)) == 2
    assert call.so_far is not None
    assert call.so_far.prompt_tokens == len(local.ids(ASK, ROOT)) + 2
    assert call.so_far.flops > 0


@pytest.mark.parametrize("pieces", [10_000, 7])
async def test_a_prompt_is_read_in_pieces(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    engine = make()
    lengths = (3, 40, 41, 1, 17)
    asked = [(prompt(length, length), Sampling(4), length) for length in lengths]
    want = [(await make().generate(*a)).tokens for a in asked]
    likely = await make().loglikelihood(prompt(9), prompt(30, 7))
    monkeypatch.setattr(batch, "PREFILL_TOKENS", pieces)
    rows = await together(engine, asked)
    assert [row.tokens for row in rows] == want
    assert [(row.cached, row.computed) for row in rows] == [(0, length + 3) for length in lengths]
    assert [row.reads for row in rows] == [sum(range(1, length + 4)) for length in lengths]
    assert await make().loglikelihood(prompt(9), prompt(30, 7)) == pytest.approx(likely, abs=1e-4)
    check_idle(engine)


# what is shared is computed once


async def test_a_beginning_that_meets_itself_is_computed_once(make: Callable[..., Engine]) -> None:
    engine = make()
    begin = prompt(50)
    rows = await together(engine, [((*begin, 4 + i, 9), Sampling(3), i) for i in range(8)])
    assert sum(row.computed for row in rows) == 50 + 8 * (2 + 2)
    assert sorted(row.cached for row in rows) == [0, *[50] * 7]
    alone = [(await make().generate((*begin, 4 + i, 9), Sampling(3), i)).tokens for i in range(8)]
    assert [row.tokens for row in rows] == alone
    check_idle(engine)


async def test_drafts_of_one_prompt_are_graded_by_their_own_tokens(tmp_path: Path) -> None:
    tiny.classifier(tmp_path)
    engine, found = Engine(load(tmp_path), lambda row: False), dict[int, Any]()

    async def grade(i: int) -> None:
        found[i] = await engine.score((*prompt(30), 4 + i, 5))

    async with anyio.create_task_group() as tasks:
        for i in range(8):
            tasks.start_soon(grade, i)
    told = engine.statistics  # the first reads the prompt, the others are one batch behind it
    assert (told.tokens_computed, told.steps) == (30 + 8 * 2, 2)
    for i, scored in found.items():
        fresh = await Engine(load(tmp_path), lambda row: False).score((*prompt(30), 4 + i, 5))
        assert scored.outputs == pytest.approx(fresh.outputs, abs=1e-5)


async def test_known_texts_start_in_one_pass(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    passes = []
    whole = batch.forward
    monkeypatch.setattr(batch, "forward", lambda *given: passes.append(len(given[2].ids)) or whole(*given))  # type: ignore[func-returns-value]
    await together(engine, [(prompt(20), Sampling(2), i) for i in range(16)])
    assert passes == [20, 1, 15]  # the others begin from the end of the prompt, which has been read


async def test_idle_rows_are_freed_at_once(make: Callable[..., Engine]) -> None:
    engine = make(rows=2)
    told = list[Row]()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            for i in range(4):

                def progress(row: Row) -> None:
                    told.append(row)
                    if len(row.tokens) > 4:
                        scope.cancel()

                tasks.start_soon(engine.generate, prompt(5, i), Sampling(400), i, progress)
    assert scope.cancelled_caught
    check_idle(engine)
    assert {len(row.tokens) > 0 for row in told[-4:]} == {True, False}  # those who waited were told too


# what is asked of the wrong model, and what cannot be loaded


async def test_what_makes_no_sense_is_refused(folder: Path, make: Callable[..., Engine], tmp_path: Path) -> None:
    tiny.classifier(tmp_path)
    engine, judge = make(), Engine(load(tmp_path), lambda row: False)
    with pytest.raises(UsageError, match="prompt is empty"):
        await engine.generate((), Sampling(3), 0)
    with pytest.raises(UsageError, match="no likelihood"):
        await engine.loglikelihood((), (5,))
    with pytest.raises(UsageError, match="cannot grade"):
        await engine.score((5,))
    with pytest.raises(UsageError, match="cannot generate"):
        await judge.generate((5,), Sampling(3), 0)
    with pytest.raises(UsageError, match="knows no likelihoods"):
        await judge.loglikelihood((5,), (6,))
    with pytest.raises(UsageError, match="knows no likelihoods"):
        await judge.read((5, 6))
    check_idle(engine)


@pytest.mark.parametrize("missing", ["torch", "tokenizers", "jinja2.sandbox"])
async def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [n for n in sys.modules if n.startswith(("forethought.engine", "forethought.models.reading"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=rf"{missing}.*pip install 'forethought\[local\]'"):
        await Local(folder).extend(Request(ASK, max_tokens=2), Call((), 0))


def test_all_ends_are_known(tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    assert load(tmp_path).eos == {tiny.EOS}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [tiny.EOS, 9]}))
    assert load(tmp_path).eos == {tiny.EOS, 9}
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": None}))
    assert load(tmp_path).eos == {tiny.EOS}
    (tmp_path / "generation_config.json").unlink()
    assert load(tmp_path).eos == {tiny.EOS}


def test_a_head_that_is_stored_and_tied_is_counted_once(tmp_path: Path) -> None:
    theirs = tiny.generator(tmp_path, tie_word_embeddings=True)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert load(tmp_path).shape.parameters == theirs.num_parameters()


def test_bfloat16_is_computed_in_fp32(tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    tensors = {name: t.bfloat16() for name, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    model = load(tmp_path)
    assert model.embedding.dtype == model.layers[0].qkv.dtype == torch.float32


@pytest.mark.parametrize("width", [1, 20, 33, 36, 64])
@pytest.mark.parametrize("rows", [1, 8, 9, 40])
def test_eight_bits_are_near(rows: int, width: int) -> None:
    matrix, x = torch.randn(width, 48) * torch.rand(48), torch.randn(rows, width)
    found, want = Int8.of(matrix).times(x), x @ matrix
    assert (found - want).norm() <= 0.015 * want.norm()
    bias, total = torch.randn(48), torch.randn(rows, 48)
    assert torch.equal(times(x, Int8.of(matrix), bias), found + bias)
    whole = total.clone()
    add_times(whole, x, Int8.of(matrix))
    assert torch.equal(whole, total + found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 64, 100])
def test_packed_matrices_are_the_same_matrices(rows: int, dtype: torch.dtype) -> None:
    weights = torch.randn(1280, 128).to(dtype).t()
    laid = packed(weights)
    if dtype == torch.float32:
        assert isinstance(laid, Packed)  # in bfloat16 only where the processor computes in it
    assert (laid.shape, laid.dtype) == (weights.shape, dtype)
    x, bias, total = torch.randn(rows, 128), torch.randn(1280).to(dtype), torch.randn(rows, 1280)
    want = x.to(dtype).float() @ weights.float()
    for found, exact in ((times(x, laid), want), (times(x, laid, bias), want + bias.float())):
        assert found.dtype == dtype
        assert (found.float() - exact).abs().max() <= 8 * torch.finfo(
            dtype
        ).eps * exact.abs().max()  # orders of summation
    whole = total.clone()
    add_times(whole, x, laid)
    assert torch.equal(whole, total + times(x, laid))


def test_small_matrices_are_not_packed() -> None:
    assert isinstance(packed(torch.randn(128, 1023)), torch.Tensor)


async def test_a_model_in_eight_bits(folder: Path) -> None:
    plain, small = Local(folder), Local(folder, precision="int8")
    ids = prompt(60)
    want, found = [torch.tensor((await local.engine.read(ids)).logprobs) for local in (plain, small)]
    assert 0 < (found - want).abs().mean() <= 0.05
    written = [await small.extend(Request(ASK, max_tokens=9), Call((), seed)) for seed in range(3)]
    assert all(done.tokens for done in written)


async def test_texts_end_where_a_window_would_slide(tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    changes = {"architectures": ["MistralForCausalLM"], "sliding_window": 8}
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    engine = Engine(replace(load(tmp_path), eos=frozenset()), lambda row: False)
    with pytest.raises(UsageError, match="the prompt has 9 tokens; this model reads 8"):
        await engine.generate(prompt(9), Sampling(4), 0)
    for length in (5, 8):
        row = await engine.generate(prompt(length), Sampling(40), 0)
        assert (len(row.tokens), row.finish) == (9 - length, "length")  # the last one is not read any more


async def test_a_classifier_with_one_label(tmp_path: Path) -> None:
    tiny.classifier(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    two = await Engine(load(tmp_path), lambda row: False).score(prompt(5))
    difference = {n: (tensors[n][1:] - tensors[n][:1]).contiguous() for n in ("score.weight", "score.bias")}
    save_file(tensors | difference, tmp_path / "model.safetensors")
    one = await Engine(load(tmp_path), lambda row: False).score(prompt(5))
    assert one.outputs == pytest.approx(two.outputs, abs=1e-5)


# prompts


def told(folder: Path, **changes: Any) -> None:
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def test_a_base_model_begins_with_its_first_token(tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    told(tmp_path, chat_template=None)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    bare = Local(tmp_path).ids(ASK, ROOT)
    told(tmp_path, add_bos_token=True)
    reader = Local(tmp_path).reader
    bos = reader.encode(json.loads((tmp_path / "tokenizer_config.json").read_text())["bos_token"])
    assert Local(tmp_path).ids(ASK, ROOT) == (*bos, *bare)
    assert len(bos) == 1
    told(tmp_path, add_bos_token=False)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos[0])])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Local(tmp_path).ids(ASK, ROOT) == (*bos, *bare)


def test_templates_have_what_they_expect(tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
    told(tmp_path, chat_template="{{ strftime_now('%Y') }}{% for m in messages %}{% break %}{% endfor %}")
    assert Local(tmp_path).ids(ASK, ROOT) == Local(tmp_path).reader.encode(str(datetime.now().year))
    told(tmp_path, chat_template="{{ raise_exception('only the user speaks\\nhere') }}")
    with pytest.raises(UsageError, match=r"refuses this chat: only the user speaks$"):
        Local(tmp_path).ids(ASK, ROOT)
    told(tmp_path, chat_template="{% if %}")
    with pytest.raises(UsageError, match="chat template cannot be read"):
        Local(tmp_path).ids(ASK, ROOT)


@pytest.mark.parametrize(("text", "found"), [("512M", 512 << 20), ("1.5g", 3 << 29), ("4096", 4096), ("2T", 2 << 40)])
def test_memory_is_asked_for_in_words(folder: Path, text: str, found: int) -> None:
    assert bytes_of(text) == found
    local = model_named(f"local:{folder}", kv_bytes=1 << 20)
    assert isinstance(local, Local)
    pages = local.engine.batch.pages
    assert pages.count == (1 << 20) // pages.page_bytes


@pytest.mark.parametrize("text", ["", "M", "-1G", "many", "nan", "inf", "0", "1e18G"])
def test_memory_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="amount of memory"):
        bytes_of(text)
    with pytest.raises(UsageError, match="does not run here"):
        model_named("openai:m@http://localhost:1/v1", kv_bytes=1)


def test_eight_bits_are_asked_for_in_the_name(folder: Path) -> None:
    local = model_named(f"local:{folder}+int8")
    assert isinstance(local, Local)
    assert local.name == f"local:{folder}+int8"
    assert {type(layer.out) for layer in local.engine.model.layers} == {Int8}
    assert Local(folder, precision="int8").name == local.name


@pytest.mark.parametrize(("name", "reason"), [
    ("openai:m@http://localhost:1/v1+int8", "v1 does not run here: its precision is its server's"),
    ("openai:m@http://localhost:1/v1+fp32", "v1 does not run here: its precision is its server's"),
    ("reasoner+int8+fp32", "reasoner+int8+fp32 names two precisions: a model has one"),
    ("local:.+fp32+int8", "local:.+fp32+int8 names two precisions: a model has one"),
    ("reasoner+fp16", "there is no model 'reasoner+fp16'; did you mean 'reasoner'?"),
    ("local:.+fp16", ".+fp16 is not there"),
])  # fmt: skip
def test_precisions_that_no_model_has(name: str, reason: str) -> None:
    with pytest.raises(UsageError, match=re.escape(reason)):
        model_named(name)


# a real model


CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
GGUF = next(iter(sorted((CACHE / "forethought" / "smollm2").glob("*.gguf"))), None)


@pytest.mark.slow
@pytest.mark.skipif(GGUF is None, reason="run `forethought pull smollm2` first")
@torch.inference_mode()
def test_a_gguf_file_says_what_it_says_in_transformers() -> None:
    from transformers import AutoConfig
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    assert GGUF is not None
    theirs = LlamaForCausalLM(AutoConfig.from_pretrained(GGUF.parent, gguf_file=GGUF.name)).eval()
    theirs.load_state_dict(
        load_gguf_checkpoint(str(GGUF), return_tensors=True, model_to_load=theirs)["tensors"], strict=False
    )
    theirs.tie_weights()
    local = Local(GGUF)
    ids = local.ids(({"role": "user", "content": "Tell me about the history of Paris."},), ROOT)
    check_real(theirs, local, ids)


@pytest.mark.slow
@torch.inference_mode()
def test_the_reasoner_says_what_it_says_in_transformers() -> None:
    path = reasoner.folder("generator")
    theirs, local = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval(), Local(path)
    check_real(theirs, local, local.ids(ASK, ROOT))


def check_real(theirs: Any, local: Local, ids: tuple[int, ...]) -> None:
    """Logits along a greedy text of 200 tokens, and the text, alone and beside others that begin like it."""
    engine = Engine(replace(local.engine.model, eos=frozenset()), lambda row: False)
    mask = torch.ones(1, len(ids), dtype=torch.long)
    whole = theirs.generate(
        torch.tensor([ids]), max_new_tokens=200, min_new_tokens=200, do_sample=False, attention_mask=mask
    )
    text = tuple(whole[0].tolist())
    row = anyio.run(engine.generate, ids, Sampling(200, 0.0, banned=tuple(local.engine.model.eos)), 0)
    assert row.tokens == list(text[len(ids) :])
    want = theirs(whole).logits[0, len(ids) - 1 :]
    found = anyio.run(logits_of, engine, text, len(ids))
    assert (found - want).abs().max() <= 1e-4 * want.abs().max()
