"""Weights of the Llama family from a folder in Hugging Face format, or from a GGUF file through transformers' reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forethought.core.errors import UsageError
from forethought.engine.llama import Layer, Llama, Shape

KNOWN = ("LlamaForCausalLM", "LlamaForTokenClassification", "MistralForCausalLM")


def load(path: Path) -> Llama:
    """Read a model into fp32. Raises UsageError, in one line, for a path that holds no model of the family."""
    try:
        return _from_gguf(path) if path.suffix == ".gguf" else _from_folder(path)
    except (UsageError, ImportError):
        raise
    except KeyError as error:
        raise UsageError(f"{path} cannot be loaded: it has no {error}") from None
    except Exception as error:  # noqa: BLE001 - the readers of files raise what they like
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from None


def _from_folder(path: Path) -> Llama:
    config = read_config(path)
    name = (config.get("architectures") or ["model of no named architecture"])[0]
    if name not in KNOWN:
        raise UsageError(f"{path} is a {name}; the local engine runs {', '.join(KNOWN)}")
    return build({**config, "eos_token_id": _ends(path, config)}, _safetensors(path))


def read_config(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no model folder: cannot read its config.json ({type(error).__name__})") from None
    return found


def _ends(path: Path, config: Mapping[str, Any]) -> Any:
    """What ends a text: chat models name more tokens in generation_config.json than in config.json."""
    generation = path / "generation_config.json"
    told = json.loads(generation.read_text()) if generation.exists() else {}
    return told.get("eos_token_id", config.get("eos_token_id"))


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{path} has no .safetensors file")
    return {name: tensor.float() for file in files for name, tensor in load_file(file).items()}


def _from_gguf(path: Path) -> Llama:
    """By transformers' reader of GGUF files itself: its from_pretrained asks for accelerate and holds the weights twice."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):  # a model without weights, whose names the reader looks up
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    if type(model).__name__ not in KNOWN:
        raise UsageError(f"{path} is a {type(model).__name__}; the local engine runs {', '.join(KNOWN)}")
    reader: Any = load_gguf_checkpoint
    read = reader(str(path), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    return build(config.to_dict(), read["tensors"])


def build(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Llama:
    """A model from its configuration and its tensors by their Hugging Face names."""
    _check(config, tensors)
    embedding = tensors["model.embed_tokens.weight"]
    tied = embedding if config.get("tie_word_embeddings") else None
    head = next(t for t in (tensors.get("score.weight"), tied, tensors.get("lm_head.weight")) if t is not None)
    layers = tuple(_layer(tensors, f"model.layers.{i}.") for i in range(config["num_hidden_layers"]))
    parameters = sum(t.numel() for name, t in tensors.items() if name != "lm_head.weight" or head is t)
    eos = config.get("eos_token_id")
    return Llama(
        _shape(config, parameters),
        embedding,
        layers,
        tensors["model.norm.weight"],
        head,
        tensors.get("score.bias"),
        frozenset([eos] if isinstance(eos, int) else eos or []),
    )


def _check(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what the forward pass does not do, rather than leave it out."""
    if any(name.endswith(".bias") and name != "score.bias" for name in tensors):
        raise UsageError("the local engine does not run models with biases in their layers yet")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UsageError(f"the local engine does not run models with the activation '{activation}' yet")
    if config.get("sliding_window"):
        raise UsageError("the local engine does not run models with sliding-window attention yet")
    if not config.get("tie_word_embeddings") and not {"score.weight", "lm_head.weight"} & set(tensors):
        raise KeyError("lm_head.weight")


def _shape(config: Mapping[str, Any], parameters: int) -> Shape:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        base = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
        frequencies, scale = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim), 1.0
    else:
        frequencies, scale = _scaled_rope(config, kind)
    kv_heads = config.get("num_key_value_heads") or heads
    epsilon = config["rms_norm_eps"]
    return Shape(config["num_hidden_layers"], heads, kv_heads, head_dim, epsilon, frequencies, scale, parameters)


def _scaled_rope(config: Mapping[str, Any], kind: str) -> tuple[Tensor, float]:
    """Frequencies of the scaled kinds, by transformers' own rules."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        raise UsageError(f"the local engine does not know the rope scaling '{kind}'")
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](LlamaConfig(**config), torch.device("cpu"))
    return frequencies, float(scale)


def _layer(tensors: Mapping[str, Tensor], prefix: str) -> Layer:
    def weight(name: str) -> Tensor:
        return tensors[f"{prefix}{name}.weight"]

    return Layer(
        weight("input_layernorm"),
        torch.cat([weight(f"self_attn.{part}_proj") for part in "qkv"]).contiguous(),
        weight("self_attn.o_proj"),
        weight("post_attention_layernorm"),
        torch.cat([weight("mlp.gate_proj"), weight("mlp.up_proj")]).contiguous(),
        weight("mlp.down_proj"),
    )
