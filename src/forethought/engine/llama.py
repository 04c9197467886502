"""The forward pass of the Llama family: flat tokens of all requests through every layer, attention lane by lane."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from forethought.engine.attention import Lane, Rows, attention
from forethought.engine.compiled import compiles, gate, turn
from forethought.engine.matrix import Matrix, add_times, cast, times
from forethought.engine.slots import Slots


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model. `inverse_frequencies` and `rope_scale` are what its rotary embedding comes down to; texts have at
    most `positions` tokens.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    inverse_frequencies: Tensor
    rope_scale: float = 1.0
    parameters: int = 0
    positions: int = 1 << 30

    def flops(self, tokens: int, reads: int) -> float:
        """Operations for `tokens` passes and `reads` token-steps of attention: twice the parameters a token, and products
        with a key and a value a read.
        """
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * self.heads * self.head_dim * reads


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, made for few and plain operations (see `weights.build`).

    Norms are folded into the products behind them; q, k and v are one matrix, gate and up another; the two halves that
    rotary embedding turns together lie side by side; q is scaled by 1 / sqrt(head_dim). All matrices are transposed views.
    `norms` [heads + kv_heads, head_dim] are the q and k norms of Qwen3.
    """

    qkv: Matrix
    qkv_bias: Tensor | None
    norms: Tensor | None
    out: Matrix
    out_bias: Tensor | None
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True, slots=True)
class Llama:
    """A model. `head` [width, outputs] maps the last hidden state to logits: over the vocabulary, or over labels if
    `classifies`. Its matrices are of type `dtype`, and so are keys and values; a head of labels and all else is fp32.
    """

    shape: Shape
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Matrix
    head_bias: Tensor | None
    eos: frozenset[int]
    classifies: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def vocabulary(self) -> int:
        return len(self.embedding)


@dataclass(frozen=True, slots=True)
class Step:
    """Flat tokens with the turns of their positions, where in the slots their keys and values go, and the lanes, in order, in
    which their queries attend.
    """

    ids: Tensor
    turns: Tensor
    places: Tensor
    lanes: tuple[Lane | Rows, ...]


def forward(model: Llama, slots: Slots, step: Step) -> Tensor:
    """Write keys and values of the step's tokens and return their normalised hidden states [tokens, width]."""
    s = model.shape
    x = F.embedding(step.ids, model.embedding)
    queries, activated = (_compiled_queries, _compiled_activated) if compiles(x.device) else (_queries, _activated)
    for index, layer in enumerate(model.layers):
        q = queries(layer, x, s, slots, index, step)
        add_times(x, attention(q, index, step.lanes), layer.out)
        if layer.out_bias is not None:
            x.add_(layer.out_bias)
        add_times(x, activated(layer, x, s), layer.down)
    return _unit(x, s).mul_(model.norm)


def turns(shape: Shape, positions: Tensor) -> Tensor:
    """What rotary embedding multiplies pairs at these positions with: complex [positions, 1, head_dim / 2]."""
    angles = positions[:, None, None] * shape.inverse_frequencies
    return torch.polar(torch.full_like(angles, shape.rope_scale), angles)


def _unit(x: Tensor, s: Shape) -> Tensor:
    """RMS norm but for a factor sqrt(width), which the weights behind it carry: three kernels where `F.rms_norm` has six."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.hypot_(_floor(s.epsilon * x.shape[1], x.device))


@functools.cache
def _floor(square: float, device: torch.device) -> Tensor:
    """The least that a length counts."""
    return torch.tensor(math.sqrt(square), device=device)


def _compiled_queries(layer: Layer, x: Tensor, s: Shape, slots: Slots, index: int, step: Step) -> Tensor:
    floors = s.epsilon * x.shape[1], s.epsilon * s.head_dim
    return turn(
        x, times(x, layer.qkv), layer.qkv_bias, layer.norms, floors, step.turns, step.places, slots.layers[index]
    )


def _compiled_activated(layer: Layer, x: Tensor, s: Shape) -> Tensor:
    return gate(x, times(x, layer.gate_up), s.epsilon * x.shape[1])


def _activated(layer: Layer, x: Tensor, s: Shape) -> Tensor:
    gate, up = times(_unit(x, s), layer.gate_up).chunk(2, -1)
    return F.silu(gate).mul_(up)


def _queries(layer: Layer, x: Tensor, s: Shape, slots: Slots, index: int, step: Step) -> Tensor:
    """Queries [tokens, kv_heads, group, head_dim], turned; keys and values, in their places."""
    turning = s.heads + s.kv_heads
    qkv = times(_unit(x, s), layer.qkv, layer.qkv_bias).float()
    turned = qkv[:, : turning * s.head_dim].view(-1, turning, s.head_dim)
    if layer.norms is not None:
        turned.copy_(F.rms_norm(turned, (s.head_dim,), None, s.epsilon).mul_(layer.norms))
    torch.view_as_complex(turned.view(-1, turning, s.head_dim // 2, 2)).mul_(step.turns)
    slots.write(index, step.places, qkv[:, s.heads * s.head_dim :])
    return cast(turned[:, : s.heads], slots.dtype).view(-1, s.kv_heads, s.heads // s.kv_heads, s.head_dim)


def project(model: Llama, hidden: Tensor) -> Tensor:
    """Logits of hidden states, in fp32."""
    return times(hidden, model.head, model.head_bias).float()


def approval(model: Llama, hidden: Tensor) -> Tensor:
    """The probability of label 1 after each token; of the only label where a classifier has one."""
    logits = project(model, hidden)
    return logits.softmax(-1)[..., 1] if logits.shape[-1] > 1 else logits[..., 0].sigmoid()
