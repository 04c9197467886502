"""Which tensors a model of the family has, and of which sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from forethought.core.errors import UsageError
from forethought.engine.llama import Shape

Sizes = dict[str, tuple[int, ...]]


def sizes(config: Mapping[str, Any], s: Shape, tensors: Mapping[str, Tensor]) -> Sizes:
    """What the forward pass reads, by name. What only some models have, they have in each layer."""
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    found: Sizes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    if "score.weight" in tensors:
        labels = len(tensors["score.weight"])
        found |= {"score.weight": (labels, width)}
        found |= {"score.bias": (labels,)} if "score.bias" in tensors else {}
    elif not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (vocabulary, width)
    layer = _always(width, config["intermediate_size"], s)
    for group in _sometimes(width, s):
        if any(name.endswith(part) for name in tensors for part in group):
            layer |= group
    return found | {f"model.layers.{i}.{name}": size for i in range(s.layers) for name, size in layer.items()}


def _always(width: int, inner: int, s: Shape) -> Sizes:
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    return {
        "input_layernorm.weight": (width,),
        "self_attn.q_proj.weight": (q, width),
        "self_attn.k_proj.weight": (kv, width),
        "self_attn.v_proj.weight": (kv, width),
        "self_attn.o_proj.weight": (width, q),
        "post_attention_layernorm.weight": (width,),
        "mlp.gate_proj.weight": (inner, width),
        "mlp.up_proj.weight": (inner, width),
        "mlp.down_proj.weight": (width, inner),
    }


def _sometimes(width: int, s: Shape) -> tuple[Sizes, ...]:
    """What comes together or not at all: biases of q, k and v; of the output; the norms of Qwen3."""
    q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
    return (
        {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,), "self_attn.v_proj.bias": (kv,)},
        {"self_attn.o_proj.bias": (width,)},
        {"self_attn.q_norm.weight": (s.head_dim,), "self_attn.k_norm.weight": (s.head_dim,)},
    )


def check_sizes(wanted: Sizes, s: Shape, tensors: Mapping[str, Tensor]) -> None:
    """Raises KeyError for a tensor that is not there, UsageError for one of another size and for more layers than are
    configured.
    """
    for name, size in wanted.items():
        if tuple(tensors[name].shape) != size:
            raise UsageError(f"the weights are corrupt: {name} has the size {tuple(tensors[name].shape)}, not {size}")
    beyond = f"model.layers.{s.layers}."
    if any(name.startswith(beyond) for name in tensors):
        raise UsageError(f"the weights have more layers than the {s.layers} of the configuration")
