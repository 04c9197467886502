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


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda p: (p / "config.json").unlink(), "cannot read its config.json"),
    "no json": (lambda p: (p / "config.json").write_text("{"), "cannot read its config.json"),
    "another family": (lambda p: edited(p, architectures=["GPT2LMHeadModel"]), "is a GPT2LMHeadModel"),
    "no family": (lambda p: edited(p, architectures=None), "is a model of no named architecture"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "has no .safetensors file"),
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


def test_other_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not there"):
        Local(tmp_path / "nothing")
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        load(tmp_path / "model.gguf")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot read its tokenizer"):
        Local(tmp_path).ids(ASK, Draft())
