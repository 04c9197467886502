"""Attention of many branches: what they share is read once for all, what is a branch's own lies in its slot.

The part that is shared gives each query an output and a log-sum-exp. In the softmax over a branch's own keys it takes part
as one more column whose score is this log-sum-exp and whose value is this output, which is the exact merge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forethought.engine.matrix import cast


@dataclass(frozen=True, slots=True)
class Shared:
    """Keys and values [kv_heads, tokens, head_dim] a layer that `members` of a lane read together; None: all of them."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    members: Tensor | None


@dataclass(frozen=True, slots=True)
class Lane:
    """`rows` slots side by side, each with `time` queries over the first `length` columns of its slot.

    `keys` [rows * kv_heads, head_dim, length] and `values` [rows * kv_heads, length, head_dim] are views a layer.
    `mask` [rows * kv_heads, time * group or 1, length] is added to the scores; None where every query may see everything.
    `padded` [rows * time] says which flat token stands where in the rectangle, `flat` where in it each flat token stands;
    None where all rows have `time` tokens.
    """

    rows: int
    time: int
    length: int
    tokens: slice
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    mask: Tensor | None = None
    padded: Tensor | None = None
    flat: Tensor | None = None
    shared: tuple[Shared, ...] = ()


def attention(q: Tensor, index: int, lanes: tuple[Lane, ...]) -> Tensor:
    """Queries [tokens, kv_heads, group, head_dim] of one layer to mixed values [tokens, heads * head_dim]."""
    if len(lanes) == 1:
        return _lane(q, index, lanes[0])
    return torch.cat([_lane(q[lane.tokens], index, lane) for lane in lanes])


def _lane(q: Tensor, index: int, lane: Lane) -> Tensor:
    if lane.padded is not None:
        q = q[lane.padded]
    _, kv_heads, group, head_dim = q.shape
    queries = q.view(lane.rows, lane.time, kv_heads, group, head_dim).permute(0, 2, 1, 3, 4)
    queries = queries.reshape(lane.rows * kv_heads, lane.time * group, head_dim)
    keys, values = lane.keys[index], lane.values[index]
    scores = torch.bmm(queries, keys) if lane.mask is None else torch.baddbmm(lane.mask, queries, keys)
    if lane.shared:
        mixed = _merged(queries, scores, values, index, lane)
    else:
        mixed = torch.bmm(cast(scores.softmax(-1, torch.float32), values.dtype), values)
    if lane.time > 1:
        mixed = mixed.view(lane.rows, kv_heads, lane.time, group, head_dim).permute(0, 2, 1, 3, 4)
    mixed = mixed.reshape(lane.rows * lane.time, kv_heads * group * head_dim)
    return mixed if lane.flat is None else mixed[lane.flat]


def _merged(queries: Tensor, scores: Tensor, values: Tensor, index: int, lane: Lane) -> Tensor:
    """One softmax over the branches' own columns and one more a shared part."""
    here, head_dim = queries.shape[1:]
    by_row = queries.view(lane.rows, -1, here, head_dim)
    parts = [_partial(by_row, part.keys[index], part.values[index], part.members) for part in lane.shared]
    columns = [scores.view(lane.rows, -1, here, lane.length), *(column for _, column in parts)]
    weights = torch.cat(columns, -1).softmax(-1)  # in fp32, as the log-sum-exps are
    mixed = torch.bmm(cast(weights[..., : lane.length].flatten(0, 1), values.dtype), values).float()
    by_row = mixed.view(lane.rows, -1, here, head_dim)
    for place, (output, _) in enumerate(parts, lane.length):
        by_row.addcmul_(weights[..., place : place + 1], output)
    return mixed


def _partial(q: Tensor, keys: Tensor, values: Tensor, members: Tensor | None) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp [rows, kv_heads, queries, head_dim or 1] over a shared part, in fp32; 0 and -inf for those who
    do not read it.
    """
    rows, kv_heads, here, head_dim = q.shape
    asking = q if members is None else q[members]
    packed = asking.transpose(0, 1).reshape(1, kv_heads, -1, head_dim)
    kernel = _flash if q.device.type == "cpu" else _products
    mixed, total = kernel(packed, keys[None], values[None])
    output = mixed.view(kv_heads, -1, here, head_dim).transpose(0, 1)
    column = total.view(kv_heads, -1, here, 1).transpose(0, 1)
    if members is None:
        return output, column
    whole, filled = output.new_zeros(q.shape), column.new_full((rows, kv_heads, here, 1), -torch.inf)
    return whole.index_copy_(0, members, output), filled.index_copy_(0, members, column)


def _flash(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Unmasked attention with its log-sum-exp: torch's own kernel for processors."""
    mixed, total = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, keys, values, 0.0, False, scale=1.0)
    return mixed.float(), total.contiguous()


def _products(q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The same by two plain products."""
    scores = (q @ keys.mT).float()
    return (cast(scores.softmax(-1), values.dtype) @ values).float(), scores.logsumexp(-1)
