"""Attention of many branches: what they share is read once for all, what is a branch's own lies in its slot.

The part that is shared gives each query an output and a log-sum-exp. In the softmax over a branch's own keys it takes part
as one more column whose score is this log-sum-exp and whose value is this output, which is the exact merge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from forethought.engine.compiled import Own, mix
from forethought.engine.matrix import cast


@dataclass(frozen=True, slots=True)
class Shared:
    """What groups of a lane's rows read together: keys and values [groups, kv_heads, tokens, head_dim] a layer.

    `members` [groups * size] are the rows of each group, filled up to one size; `places` [rows] says where among them a row
    stands, `absent` [rows, 1, 1, 1] which rows read nothing of this. `members` and `places` are None where all rows are the
    one group. `mask` [groups, 1, 1, tokens] hides what is behind the end of shorter parts.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    members: Tensor | None = None
    places: Tensor | None = None
    absent: Tensor | None = None
    mask: Tensor | None = None


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


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens that read where it lies what is their `own`, after which come the `shared` parts of rows with one token each.
    `slots` and `pool` are all of both, a layer.
    """

    tokens: slice
    slots: tuple[Tensor, ...]
    pool: tuple[Tensor, ...]
    own: Own
    shared: tuple[Shared, ...] = ()


def attention(q: Tensor, index: int, lanes: tuple[Lane | Rows, ...]) -> Tensor:
    """Queries [tokens, kv_heads, group, head_dim] of one layer to mixed values [tokens, heads * head_dim]."""
    if len(lanes) == 1:
        return _mixed(q, index, lanes[0])
    return torch.cat([_mixed(q[lane.tokens], index, lane) for lane in lanes])


def _mixed(q: Tensor, index: int, lane: Lane | Rows) -> Tensor:
    if isinstance(lane, Lane):
        return _lane(q, index, lane)
    parts = [_partial(q, part, index) for part in lane.shared]
    return mix(q, lane.slots[index], lane.pool[index], lane.own, parts)


def _lane(q: Tensor, index: int, lane: Lane) -> Tensor:
    if lane.padded is not None:
        q = q[lane.padded]
    _, kv_heads, group, head_dim = q.shape
    queries = q.view(lane.rows, lane.time, kv_heads, group, head_dim).permute(0, 2, 1, 3, 4)
    queries = queries.reshape(lane.rows * kv_heads, lane.time * group, head_dim)
    keys, values = lane.keys[index], lane.values[index]
    scores = _scores(queries, keys, lane.mask)
    if lane.shared:
        mixed = _merged(queries, scores, values, index, lane)
    else:
        mixed = torch.bmm(cast(scores.softmax(-1, torch.float32), values.dtype), values)
    if lane.time > 1:
        mixed = mixed.view(lane.rows, kv_heads, lane.time, group, head_dim).permute(0, 2, 1, 3, 4)
    mixed = mixed.reshape(lane.rows * lane.time, kv_heads * group * head_dim)
    return mixed if lane.flat is None else mixed[lane.flat]


def _scores(queries: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
    """Products of queries [n, queries, head_dim] with keys [n, head_dim, length], and the mask."""
    if queries.dtype == torch.bfloat16:  # of few queries, torch's product is twice as fast the other way round
        queries, keys = keys.mT, queries.mT
        scores = torch.bmm(queries, keys).mT
        return scores if mask is None else scores.add_(mask)
    return torch.bmm(queries, keys) if mask is None else torch.baddbmm(mask, queries, keys)


def _merged(queries: Tensor, scores: Tensor, values: Tensor, index: int, lane: Lane) -> Tensor:
    """One softmax over the branches' own columns and one more a shared part."""
    here, head_dim = queries.shape[1:]
    by_row = queries.view(lane.rows, -1, here, head_dim)
    parts = [_partial(by_row, part, index) for part in lane.shared]
    columns = [scores.view(lane.rows, -1, here, lane.length), *(column for _, column in parts)]
    weights = torch.cat(columns, -1).softmax(-1)  # in fp32, as the log-sum-exps are
    mixed = torch.bmm(cast(weights[..., : lane.length].flatten(0, 1), values.dtype), values).float()
    by_row = mixed.view(lane.rows, -1, here, head_dim)
    for place, (output, _) in enumerate(parts, lane.length):
        by_row.addcmul_(weights[..., place : place + 1], output)
    return mixed


def _partial(q: Tensor, part: Shared, index: int) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp [rows, kv_heads, queries, head_dim or 1] over a shared part, in fp32; 0 and -inf for those who
    do not read it.
    """
    _, kv_heads, here, head_dim = q.shape
    keys, values = part.keys[index], part.values[index]
    asking = q if part.members is None else q.index_select(0, part.members)
    groups = asking.view(len(keys), -1, kv_heads, here, head_dim).transpose(1, 2)
    kernel = _flash if q.device.type == "cpu" else _products
    mixed, total = kernel(groups.reshape(len(keys), kv_heads, -1, head_dim), keys, values, part.mask)
    output, column = (_by_row(found, here, part.places) for found in (mixed, total[..., None]))
    if part.absent is not None:  # a row whose numbers are broken must not reach those who do not read it
        output, column = output.masked_fill_(part.absent, 0.0), column.masked_fill_(part.absent, -torch.inf)
    return output, column


def _by_row(found: Tensor, here: int, places: Tensor | None) -> Tensor:
    """[groups, kv_heads, size * queries, any] to [rows, kv_heads, queries, any]."""
    groups, kv_heads, _, any_ = found.shape
    members = found.view(groups, kv_heads, -1, here, any_).transpose(1, 2).flatten(0, 1)
    return members if places is None else members.index_select(0, places)


def _flash(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention with its log-sum-exp: torch's own kernel for processors."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    mixed, total = kernel(q, keys, values, 0.0, False, attn_mask=mask, scale=1.0)
    return mixed.float(), total.contiguous()


def _products(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same by two plain products."""
    scores = (q @ keys.mT).float()
    if mask is not None:
        scores += mask
    return (cast(scores.softmax(-1), values.dtype) @ values).float(), scores.logsumexp(-1)
