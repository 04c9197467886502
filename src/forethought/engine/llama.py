"""The forward pass of the Llama family, over rows of keys and values that lie at their positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model. `inverse_frequencies` and `rope_scale` are what its rotary embedding comes down to."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    inverse_frequencies: Tensor
    rope_scale: float = 1.0
    parameters: int = 0

    def flops(self, tokens: int, reads: int) -> float:
        """Operations for `tokens` passes and `reads` token-steps of attention: twice the parameters a token, and products
        with a key and a value a read.
        """
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * self.heads * self.head_dim * reads


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer; q, k and v are one matrix, gate and up another."""

    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Llama:
    """A model. `head` maps the last hidden state to logits: over the vocabulary, or over labels with `head_bias`."""

    shape: Shape
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor
    head_bias: Tensor | None
    eos: frozenset[int]


class Rows:
    """Keys and values of up to `count` sequences, each [layers, kv_heads, position, head_dim]; grown as needed."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.keys = torch.empty(shape.layers, 0, shape.kv_heads, 0, shape.head_dim)
        self.values = self.keys.clone()

    def reserve(self, count: int, length: int) -> None:
        """Make room for `count` rows of `length` positions, keeping what is there."""
        _, rows, _, room, _ = self.keys.shape
        if count <= rows and length <= room:
            return
        rows, room = max(rows, 1 << max(count - 1, 0).bit_length()), max(room, -(-length // 128) * 128)
        self.keys, self.values = (self._grown(old, rows, room) for old in (self.keys, self.values))

    def _grown(self, old: Tensor, rows: int, room: int) -> Tensor:
        s = self._shape
        new = torch.zeros(s.layers, rows, s.kv_heads, room, s.head_dim)
        new[:, : old.shape[1], :, : old.shape[3]] = old
        return new

    def read(self, row: int, start: int, stop: int) -> Tensor:
        """A copy of part of a row: [2, layers, kv_heads, stop - start, head_dim]."""
        return torch.stack([self.keys[:, row, :, start:stop], self.values[:, row, :, start:stop]])

    def write(self, row: int, start: int, kv: Tensor) -> None:
        stop = start + kv.shape[3]
        self.keys[:, row, :, start:stop], self.values[:, row, :, start:stop] = kv[0], kv[1]

    def move(self, source: int, target: int, length: int) -> None:
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of [rows, time, heads, head_dim] (Su et al. 2021, in the half-split form of HF Llama)."""
    cos, sin = angles
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def forward(model: Llama, rows: Rows, ids: Tensor, starts: Tensor, first: int) -> Tensor:
    """Run `ids` [n, time] at positions starts[i], starts[i] + 1, ... of the rows first, ..., first + n - 1.

    Writes their keys and values and returns the normalised hidden states [n, time, width]. Right padding is harmless: what
    it writes lies behind every position that is looked at, until real tokens replace it.
    """
    s = model.shape
    positions = starts[:, None] + torch.arange(ids.shape[1])
    length = int(positions.max()) + 1
    angles = positions[..., None].float() * s.inverse_frequencies
    turned = torch.cat([angles, angles], -1)[:, :, None]
    cos_sin = (turned.cos() * s.rope_scale, turned.sin() * s.rope_scale)
    hidden_from = torch.arange(length)[None, None] > positions[..., None]  # [n, time, length]: later than the query
    x = model.embedding[ids]
    for index, layer in enumerate(model.layers):
        x = x + attend(layer, x, s, rows, index, first, positions, cos_sin, hidden_from)
        gate, up = F.linear(F.rms_norm(x, x.shape[-1:], layer.mlp_norm, s.epsilon), layer.gate_up).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, layer.down)
    return F.rms_norm(x, x.shape[-1:], model.norm, s.epsilon)


def attend(
    layer: Layer,
    x: Tensor,
    s: Shape,
    rows: Rows,
    index: int,
    first: int,
    positions: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    hidden_from: Tensor,
) -> Tensor:
    """Causal attention of new tokens over their rows, query heads grouped over the KV head they share."""
    n, time, _ = x.shape
    length, group = hidden_from.shape[-1], s.heads // s.kv_heads
    projected = F.linear(F.rms_norm(x, x.shape[-1:], layer.attention_norm, s.epsilon), layer.qkv)
    sizes = [s.heads * s.head_dim, s.kv_heads * s.head_dim, s.kv_heads * s.head_dim]
    q, k, v = torch.split(projected, sizes, -1)
    q = rotate(q.view(n, time, s.heads, s.head_dim), cos_sin)
    k = rotate(k.view(n, time, s.kv_heads, s.head_dim), cos_sin)
    keys, values = rows.keys[index, first : first + n], rows.values[index, first : first + n]
    at = torch.arange(n)[:, None]
    keys[at, :, positions], values[at, :, positions] = k, v.view(n, time, s.kv_heads, s.head_dim)
    grouped = (
        q.view(n, time, s.kv_heads, group, s.head_dim).permute(0, 2, 3, 1, 4).reshape(n, s.kv_heads, -1, s.head_dim)
    )
    scores = (grouped @ keys[:, :, :length].transpose(2, 3)).view(n, s.kv_heads, group, time, length)
    scores = scores.mul_(1 / math.sqrt(s.head_dim)).masked_fill_(hidden_from[:, None, None], -math.inf)
    mixed = scores.softmax(-1).view(n, s.kv_heads, group * time, length) @ values[:, :, :length]
    mixed = mixed.view(n, s.kv_heads, group, time, s.head_dim).permute(0, 3, 1, 2, 4)
    return F.linear(mixed.reshape(n, time, -1), layer.out)


def project(model: Llama, hidden: Tensor) -> Tensor:
    """Logits of hidden states."""
    return F.linear(hidden, model.head, model.head_bias)


def approval(model: Llama, hidden: Tensor) -> Tensor:
    """The probability of label 1 after each token; of the only label where a classifier has one."""
    logits = project(model, hidden)
    return logits.softmax(-1)[..., 1] if logits.shape[-1] > 1 else logits[..., 0].sigmoid()
