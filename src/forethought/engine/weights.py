"""Weights of the Llama family from a folder in Hugging Face format, or from a GGUF file through transformers' reader."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from forethought.core.errors import UsageError
from forethought.engine.llama import Layer, Llama, Shape
from forethought.engine.matrix import Int8, Matrix, packed
from forethought.engine.placement import Placement, Precision, best, placed
from forethought.engine.sizes import check_sizes, sizes

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
KNOWN = tuple(f"{family}For{what}" for family in FAMILIES for what in ("CausalLM", "TokenClassification"))


def load(path: Path, precision: Precision | None = None, where: Placement | None = None) -> Llama:
    """Read a model and put it `where` it runs best; with `fp32` there, and nothing in bfloat16; with `int8` on the CPU, its
    matrices in eight bits and all else in fp32.

    Raises UsageError, in one line, for a path that holds no model of the family.
    """
    try:
        model = _from_gguf(path) if path.suffix == ".gguf" else _from_folder(path)
        return _with(model, Int8.of) if precision == "int8" else fitted(model, precision, where)
    except (UsageError, ImportError):
        raise
    except KeyError as error:
        raise UsageError(f"{path} cannot be loaded: it has no {error}") from None
    except Exception as error:  # noqa: BLE001 - the readers of files raise what they like
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"{path} cannot be loaded: {type(error).__name__}: {reason}") from None


def fitted(model: Llama, precision: Precision | None = None, where: Placement | None = None) -> Llama:
    """A model as `build` makes it `where` it runs best, its matrices as they are read fastest there."""
    where = where or best(model.shape.parameters)
    if precision == "fp32":
        where = where._replace(dtype=torch.float32)
    return _with(placed(model, where), packed)


def _with(model: Llama, made: Callable[[Tensor], Matrix]) -> Llama:
    """The model with other matrices; a head of labels stays as it is."""

    def layer(of: Layer) -> Layer:
        names = ("qkv", "out", "gate_up", "down")
        return replace(of, **{name: made(getattr(of, name)) for name in names})  # type: ignore[arg-type]

    assert isinstance(model.head, Tensor)
    head = model.head if model.classifies else made(model.head)
    return replace(model, layers=tuple(map(layer, model.layers)), head=head)


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
    found = told.get("eos_token_id")
    return config.get("eos_token_id") if found is None else found


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Of the one file or of those that the index names, as transformers does: others beside them may say the same again."""
    from safetensors.torch import load_file

    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if not whole.exists() and not index.exists():
        raise UsageError(f"{path} has no model.safetensors and no index of its parts")
    parts = [whole.name] if whole.exists() else sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {name: tensor.float() for part in parts for name, tensor in load_file(path / part).items()}


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
    return build(config.to_dict() | _width_of_heads(path, config.model_type), read["tensors"])


def _width_of_heads(path: Path, arch: str) -> dict[str, int]:
    """What transformers' reader leaves out of the configuration of Qwen3."""
    from gguf import GGUFReader

    told = GGUFReader(path).get_field(f"{arch}.attention.key_length") if arch == "qwen3" else None
    return {"head_dim": int(told.parts[told.data[0]][0])} if told else {}


def build(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Llama:
    """A model from its configuration and its tensors by their Hugging Face names."""
    _check(config, tensors)
    embedding = tensors["model.embed_tokens.weight"]
    tied = embedding if config.get("tie_word_embeddings") else None
    head = next(t for t in (tensors.get("score.weight"), tied, tensors.get("lm_head.weight")) if t is not None)
    shape = _shape(config)
    wanted = sizes(config, shape, tensors)
    check_sizes(wanted, shape, tensors)
    shape = replace(shape, parameters=sum(tensors[name].numel() for name in wanted))
    layers = tuple(_layer(tensors, f"model.layers.{i}.", shape) for i in range(shape.layers))
    return Llama(
        shape,
        embedding,
        layers,
        tensors["model.norm.weight"] * math.sqrt(embedding.shape[1]),
        head.t(),
        tensors.get("score.bias"),
        _eos(config.get("eos_token_id"), len(embedding)),
        "score.weight" in tensors,
    )


def _check(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what the forward pass does not do, rather than leave it out, and weights that cannot be meant."""
    if any(name.endswith("_proj.bias") and ".mlp." in name for name in tensors):
        raise UsageError("the local engine does not run models with biases in their feed-forward layers")
    if (activation := config.get("hidden_act", "silu")) != "silu":
        raise UsageError(f"the local engine does not run models with the activation '{activation}'")
    if not config.get("tie_word_embeddings") and not {"score.weight", "lm_head.weight"} & set(tensors):
        raise KeyError("lm_head.weight")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UsageError(f"the weights are corrupt: {name} has entries that are not finite")


def _eos(told: Any, vocabulary: int) -> frozenset[int]:
    """The ends of a text: one, several, or none."""
    ends = told if isinstance(told, list) else [] if told is None else [told]
    strange = [end for end in ends if not (isinstance(end, int) and 0 <= end < vocabulary)]
    if strange:
        raise UsageError(f"the end of a text, {strange[0]!r}, is none of the {vocabulary} tokens of the model")
    return frozenset(ends)


def _shape(config: Mapping[str, Any]) -> Shape:
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        base = rope.get("rope_theta") or config.get("rope_theta") or 10_000.0
        frequencies, scale = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim), 1.0
    else:
        frequencies, scale = _scaled_rope(config, kind)
    kv_heads, epsilon = config.get("num_key_value_heads") or heads, config["rms_norm_eps"]
    positions, layers = _positions(config, rope, kind), config["num_hidden_layers"]
    return Shape(layers, heads, kv_heads, head_dim, epsilon, frequencies, scale, positions=positions)


def _positions(config: Mapping[str, Any], rope: Mapping[str, Any], kind: str) -> int:
    """How long a text may be, so that our attention is the model's: frequencies that change with the length are constant up to
    the first change, and a window that slides does not before it is full.
    """
    limits = [config.get("max_position_embeddings") or 1 << 30]
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        limits.append(config["sliding_window"])
    if kind == "longrope":
        limits.append(rope.get("original_max_position_embeddings") or limits[0])
    return min(limits)


def _scaled_rope(config: Mapping[str, Any], kind: str) -> tuple[Tensor, float]:
    """Frequencies of the scaled kinds, by transformers' own rules."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS:
        raise UsageError(f"the local engine does not know the rope scaling '{kind}'")
    frequencies, scale = ROPE_INIT_FUNCTIONS[kind](LlamaConfig(**config), torch.device("cpu"))
    return frequencies, float(scale)


def _layer(tensors: Mapping[str, Tensor], prefix: str, s: Shape) -> Layer:
    def folded(norm: str, *names: str) -> Tensor:
        matrices = [tensors[f"{prefix}{name}.weight"] for name in names]
        return torch.cat(matrices) * (tensors[f"{prefix}{norm}.weight"] * math.sqrt(matrices[0].shape[1]))

    qkv = folded("input_layernorm", *(f"self_attn.{part}_proj" for part in "qkv"))
    biases = [tensors.get(f"{prefix}self_attn.{part}_proj.bias") for part in "qkv"]
    bias = torch.cat([b for b in biases if b is not None]) if biases[0] is not None else None
    norms = _norms(tensors, prefix, s)
    return Layer(
        _turning(qkv, s, norms is None).t(),
        None if bias is None else _turning(bias[:, None], s, norms is None)[:, 0].contiguous(),
        norms,
        tensors[f"{prefix}self_attn.o_proj.weight"].t(),
        tensors.get(f"{prefix}self_attn.o_proj.bias"),
        folded("post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj").t(),
        tensors[f"{prefix}mlp.down_proj.weight"].t(),
    )


def _turning(rows: Tensor, s: Shape, scaled: bool) -> Tensor:
    """Rows [q, k, v] with the partners of rotary embedding side by side in q and k, and q scaled unless a norm undoes it."""
    turning, scale = s.heads + s.kv_heads, 1 / math.sqrt(s.head_dim) if scaled else 1.0
    qk, v = rows[: turning * s.head_dim], rows[turning * s.head_dim :]
    halves = qk.view(turning, 2, s.head_dim // 2, -1).transpose(1, 2).reshape(qk.shape)
    halves[: s.heads * s.head_dim] *= scale
    return torch.cat([halves, v])


def _norms(tensors: Mapping[str, Tensor], prefix: str, s: Shape) -> Tensor | None:
    """The q and k norms of Qwen3, a row a head, with the scale of q."""
    found = [tensors.get(f"{prefix}self_attn.{part}_norm.weight") for part in "qk"]
    if found[0] is None or found[1] is None:
        return None
    q, k = (norm.view(2, -1).t().flatten() for norm in found if norm is not None)
    return torch.stack([q / math.sqrt(s.head_dim)] * s.heads + [k] * s.kv_heads)
