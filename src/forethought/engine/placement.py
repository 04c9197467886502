"""Where a model computes, and in which type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from forethought.engine.llama import Layer, Llama

Precision = Literal["fp32", "int8"]  # what may be asked for instead of the best


class Placement(NamedTuple):
    """A device, and the type of what most memory and time goes into: the matrices, keys and values."""

    device: torch.device
    dtype: torch.dtype


PLAIN = Placement(torch.device("cpu"), torch.float32)
SMALL = 1 << 24  # parameters: what bfloat16 saves in the products of smaller models, its conversions cost on a CPU


def best(parameters: int) -> Placement:
    """A GPU if there is one, and bfloat16 where the hardware computes in it and the model is large enough to gain by it."""
    if torch.cuda.is_available():
        there = torch.cuda.is_bf16_supported(including_emulation=False)
        return Placement(torch.device("cuda"), torch.bfloat16 if there else torch.float32)
    if parameters < SMALL:
        return PLAIN
    told: dict[str, object] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # a torch that cannot tell computes in fp32
    return PLAIN._replace(dtype=torch.bfloat16) if told.get("avx512_bf16") or told.get("amx_bf16") else PLAIN


def placed(model: Llama, where: Placement) -> Llama:
    """A model with plain matrices, as it was built on the CPU in fp32, moved. What is there already is not copied.

    Embedding and norms stay in fp32, and so do a head of labels, the sums between layers, softmax and all behind the logits.
    """
    embedding = model.embedding.to(where.device)
    assert isinstance(model.head, Tensor)
    tied = model.head.data_ptr() == model.embedding.data_ptr()
    head = embedding.t() if tied else model.head.to(where.device)
    frequencies = model.shape.inverse_frequencies.to(where.device)
    return replace(
        model,
        shape=replace(model.shape, inverse_frequencies=frequencies),
        embedding=embedding,
        layers=tuple(_layer(layer, where) for layer in model.layers),
        norm=model.norm.to(where.device),
        head=head if model.classifies else head.to(where.dtype),
        head_bias=None if model.head_bias is None else model.head_bias.to(where.device),
        dtype=where.dtype,
    )


def _layer(layer: Layer, where: Placement) -> Layer:
    names = ("qkv", "qkv_bias", "out", "out_bias", "gate_up", "down")
    found = {name: part.to(*where) for name in names if (part := getattr(layer, name)) is not None}
    return replace(layer, **found, norms=None if layer.norms is None else layer.norms.to(where.device))


def sent(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor on a device, for which nobody waits."""
    if device.type == "cpu":
        return torch.tensor(values, dtype=dtype)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)


def told(*columns: Tensor) -> list[list[float]]:
    """What stands in tensors of equal length, for which one waits once: a double holds tokens and fp32 exactly."""
    if columns[0].device.type == "cpu":
        return [column.tolist() for column in columns]
    found: list[list[float]] = torch.stack([column.double() for column in columns]).tolist()
    return found
