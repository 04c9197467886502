"""GGUF files, written here: what they hold is what is computed, in every precision, and a bad one is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from forethought.core.errors import UsageError
from forethought.engine.weights import load
from tests import tiny
from tests.test_engine import check_against

WIDTH, HEADS, KV_HEADS = 256, 4, 2  # the blocks of K-quants are 256 wide
SHAPE = {
    "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "head_dim": WIDTH // HEADS, "initializer_range": 0.05, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}  # fmt: skip
CONFIG = tiny.config(**SHAPE)
Array = np.ndarray[Any, Any]


def blocks(shape: tuple[int, ...], kind: Kind) -> Array:
    """Bytes of a K-quant, which gguf reads and does not write: any bits, with scales that keep weights about 0.05."""
    size = gguf.GGML_QUANT_SIZES[kind][1]
    found = np.random.default_rng(0).integers(0, 256, (shape[0], shape[1] // 256, size), np.uint8)
    if kind == Kind.Q4_K:  # begins with the scale and that of the least value, in half precision
        found[..., :4] = np.array([1e-4, 7.5e-4], np.float16).view(np.uint8)
    if kind == Kind.Q6_K:  # ends with the scale
        found[..., -2:] = np.array([4e-5], np.float16).view(np.uint8)
    return found.reshape(shape[0], -1)


def stored(weights: Array, kind: Kind) -> Array:
    made = kind in (Kind.Q4_K, Kind.Q6_K, Kind.Q8_K)
    return blocks(weights.shape, kind) if made else gguf.quants.quantize(weights, kind)


def turned(rows: Array, heads: int) -> Array:
    """As files of the family hold q and k: the partners of rotary embedding side by side."""
    return rows.reshape(heads, 2, len(rows) // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write(path: Path, kind: Kind, tied: bool = False, family: str = "llama") -> Any:
    """A model whose matrices are of this kind, as it is with what the file says of them. Mistral's files are Llama's."""
    torch.manual_seed(0)
    make_config, make, changes = tiny.FAMILIES[family]
    model = make(make_config(**tiny.SIZES | changes | {"attention_bias": False} | SHAPE)).eval()
    arch = gguf.MODEL_ARCH.LLAMA if family == "mistral" else gguf.MODEL_ARCH[family.upper()]
    names, writer = gguf.get_tensor_name_map(arch, 2), gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    add_config(writer)
    state: dict[str, torch.Tensor] = model.state_dict()
    for name, tensor in state.items():
        if tied and name == "lm_head.weight":
            state[name] = state["model.embed_tokens.weight"]
            continue
        if tensor.ndim == 1:  # biases and norms are not what they begin as
            tensor.normal_(mean=float("norm" in name), std=0.2)
        data = stored(tensor.numpy(), kind) if tensor.ndim == 2 else tensor.numpy()
        if tensor.ndim == 2 and kind != Kind.Q8_K:
            state[name] = torch.from_numpy(gguf.quants.dequantize(data, kind).reshape(tensor.shape).copy())
        heads = next((n for part, n in (("q_proj", HEADS), ("k_proj", KV_HEADS)) if part in name), None)
        data = turned(data, heads) if heads and arch == gguf.MODEL_ARCH.LLAMA else data
        known = names.get_name(name, (".weight", ".bias"))
        writer.add_tensor(known, data, raw_dtype=kind if tensor.ndim == 2 else Kind.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(state)
    return model


def add_config(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_rope_freq_base(5e5)


@pytest.mark.parametrize(("kind", "tied"), [
    (Kind.F32, False), (Kind.F32, True), (Kind.F16, False), (Kind.BF16, False), (Kind.Q8_0, False), (Kind.Q4_0, False),
    (Kind.Q4_K, False), (Kind.Q6_K, True),
])  # fmt: skip
@torch.inference_mode()
def test_what_a_file_holds_is_computed(tmp_path: Path, kind: Kind, tied: bool) -> None:
    path = tmp_path / "model.gguf"
    check_against(write(path, kind, tied), path, 24)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
@torch.inference_mode()
def test_what_files_of_other_families_hold_is_computed(tmp_path: Path, family: str) -> None:
    """Biases of Qwen2, norms of Qwen3's heads, and q and k as they are there."""
    path = tmp_path / "model.gguf"
    check_against(write(path, Kind.F16, family=family), path, 24)


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_quantisation_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", Kind.Q8_K)
    assert "Q8_K" in refused(tmp_path / "model.gguf")


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.gguf"
    write(path, Kind.F16)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be loaded" in refused(path)
