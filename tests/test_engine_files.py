"""Files that are damaged, cut short, or of another kind: one line each, and nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from forethought.core.draft import Draft
from forethought.core.errors import UsageError
from forethought.engine.weights import load
from forethought.models.local import Local
from tests import tiny
from tests.test_engine import ASK


def edited(folder: Path, **changes: Any) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def with_one(name: str, *size: int) -> Callable[[Path], object]:
    """A file in which one tensor is of this size."""
    return lambda folder: with_tensors(folder, lambda tensors: tensors.update({name: torch.ones(size)}))


def ends(folder: Path, told: Any) -> None:
    edited(folder, eos_token_id=told)
    (folder / "generation_config.json").unlink()


V = tiny.VOCABULARY
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), "cannot read its config.json"),
    "no json": (lambda p: (p / "config.json").write_text("{"), "cannot read its config.json"),
    "another family": (lambda p: edited(p, architectures=["GPT2LMHeadModel"]), "is a GPT2LMHeadModel"),
    "no family": (lambda p: edited(p, architectures=None), "is a model of no named architecture"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "has no model.safetensors"),
    "no size": (lambda p: edited(p, num_hidden_layers=None), "cannot be loaded"),
    "cut weights": (lambda p: (p / "model.safetensors").write_bytes(b"\1\2\3"), "cannot be loaded"),
    "half the weights": (
        lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:20_000]),
        "cannot be loaded",
    ),
    "a tensor less": (lambda p: with_tensors(p, lambda t: t.pop("model.norm.weight")), "model.norm.weight"),
    "no head": (lambda p: with_tensors(p, lambda t: t.pop("lm_head.weight")), "lm_head.weight"),
    "biases": (
        lambda p: with_tensors(p, lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.zeros(48)})),
        "biases",
    ),
    "not a number": (
        lambda p: with_tensors(p, lambda t: t["model.layers.1.mlp.up_proj.weight"].fill_(torch.nan)),
        "corrupt",
    ),
    "another size": (
        lambda p: with_tensors(p, lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(40, 32)})),
        "has the size",
    ),
    "a narrow norm": (with_one("model.norm.weight", 31), "model.norm.weight has the size"),
    "a norm of one": (with_one("model.layers.0.input_layernorm.weight", 1), "input_layernorm.weight has the size"),
    "a narrow head": (with_one("lm_head.weight", V, 31), "lm_head.weight has the size"),
    "a long head": (with_one("lm_head.weight", V + 50, 32), "lm_head.weight has the size"),
    "a short head": (with_one("lm_head.weight", V - 50, 32), "lm_head.weight has the size"),
    "a wide embedding": (with_one("model.embed_tokens.weight", V, 40), "embed_tokens.weight has the size"),
    "a short embedding": (with_one("model.embed_tokens.weight", V - 50, 32), "embed_tokens.weight has the size"),
    "a bias of k alone": (with_one("model.layers.0.self_attn.k_proj.bias", 16), "has no .*q_proj.bias"),
    "a bias in one layer": (with_one("model.layers.1.self_attn.o_proj.bias", 32), "has no .*layers.0.*o_proj.bias"),
    "a norm of q alone": (with_one("model.layers.0.self_attn.q_norm.weight", 8), "has no .*k_norm.weight"),
    "more layers": (lambda p: edited(p, num_hidden_layers=1), "more layers than the 1"),
    "fewer layers": (lambda p: edited(p, num_hidden_layers=3), "has no .*layers.2"),
    "an end in letters": (lambda p: ends(p, "3"), "the end of a text, '3', is none of"),
    "an end outside": (lambda p: ends(p, [1, V]), f"the end of a text, {V}, is none of"),
    "another activation": (lambda p: edited(p, hidden_act="gelu"), "gelu"),
    "odd rope": (
        lambda p: edited(p, rope_parameters={"rope_type": "spiral", "rope_theta": 1.0}),
        "rope scaling 'spiral'",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_cannot_be_loaded_is_said_in_one_line(how: str, tmp_path: Path) -> None:
    tiny.generator(tmp_path)
    change, complaint = BROKEN[how]
    change(tmp_path)
    with pytest.raises(UsageError, match=complaint) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_lies_beside_the_weights_is_not_loaded(tmp_path: Path) -> None:
    theirs = tiny.generator(tmp_path)
    whole = tmp_path / "model.safetensors"
    tensors = load_file(whole)
    save_file({f"other.{name}": t for name, t in tensors.items()}, tmp_path / "consolidated.safetensors")
    assert load(tmp_path).shape.parameters == theirs.num_parameters()
    save_file({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)} | tensors, whole)
    assert load(tmp_path).shape.parameters == theirs.num_parameters()
    whole.unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for part, some in parts.items():
        save_file({name: tensors[name] for name in some}, tmp_path / part)
    index = {"weight_map": {name: part for part, some in parts.items() for name in some}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(tmp_path).shape.parameters == theirs.num_parameters()
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(UsageError, match=r"model-2\.safetensors"):
        load(tmp_path)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        Local(tmp_path / "nothing")
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        load(tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot read its tokenizer"):
        Local(tmp_path).ids(ASK, Draft())
