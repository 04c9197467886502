"""What a layer does between its products, compiled for the processor: one kernel where torch has seven, and no rectangle
around rows of unequal length.

A kernel gets one block of 64-bit integers: a counter, sizes, addresses, strides in elements. It is run by the team of threads
in which torch computes (`compute` says why there must be no second one), and each of them takes the next rows from the counter
until none is left. What comes out for a row depends on that row alone. Compiled by numba when first called, and kept on disk.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numba import cfunc, types
from torch import Tensor

from forethought.engine import kernels

TEAM = 1 << 14  # numbers: with fewer of them one thread is done before another has begun


@functools.cache
def _team() -> Any:
    """The entry to the OpenMP that torch has loaded, or None."""
    try:
        begin = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # another system or another OpenMP
        return None
    begin.argtypes, begin.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return begin


def compiles(device: torch.device) -> bool:
    """Whether these kernels run there."""
    return device.type == "cpu" and _team() is not None


def turn(
    x: Tensor,
    qkv: Tensor,
    bias: Tensor | None,
    norms: Tensor | None,
    floors: tuple[float, float],
    turns: Tensor,
    places: Tensor,
    kv: Tensor,
) -> Tensor:
    """Queries [tokens, kv_heads, group, head_dim] of `qkv` [tokens, any], the product of x [tokens, width] with its matrix:
    brought to unit norm, with bias and norms of heads, turned. Keys and values go to `places` of `kv`
    [2, slots, kv_heads, columns, head_dim].
    """
    (tokens, width), (_, _, kv_heads, _, head_dim) = x.shape, kv.shape
    group = qkv.shape[1] // head_dim // kv_heads - 2
    q = qkv.new_empty(kv_heads, tokens, group, head_dim)
    sizes = (tokens, width, kv_heads, group, head_dim, *map(_bits, floors))
    _run("turn", qkv.dtype, qkv.numel(), (*sizes, *map(_address, (x, qkv, bias, norms, turns, places, kv, q))))
    return q.transpose(0, 1)


def gate(x: Tensor, gate_up: Tensor, floor: float) -> Tensor:
    """silu(gate) * up [tokens, inner] of `gate_up` [tokens, 2 * inner], the product of x with its matrix, brought to unit
    norm.
    """
    tokens, both = gate_up.shape
    found = gate_up.new_empty(tokens, both // 2)
    sizes = (tokens, x.shape[1], both // 2, _bits(floor))
    _run("gate", gate_up.dtype, gate_up.numel(), (*sizes, *map(_address, (x, gate_up, found))))
    return found


class Own(NamedTuple):
    """What each of some tokens reads alone, where it lies. Token i is one of row rows[i] (None: one a row), whose slot is so
    many behind the `first`. A row sees the `spans` [2 * spans], place and length in the pool, from firsts[row] to
    firsts[row + 1], and token i of its slot the first `columns[i]` columns and one more; `longest` tokens at most in all.
    """

    columns: Tensor
    firsts: Tensor
    spans: Tensor
    longest: int
    rows: Tensor | None = None
    first: int = 0


def mix(q: Tensor, slots: Tensor, pool: Tensor, own: Own, parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Values [tokens, heads * head_dim] mixed for queries [tokens, kv_heads, group, head_dim]: of what is a token's `own` in
    `slots` [2, rows, kv_heads, room, head_dim] and the `pool` [2, kv_heads, tokens, head_dim], and as further columns of the
    `parts`, outputs and log-sum-exps [tokens, kv_heads, group, head_dim or 1] in fp32.
    """
    (tokens, kv_heads, group, head_dim), (_, rows, _, room, _) = q.shape, slots.shape
    found = q.new_empty(tokens, kv_heads * group * head_dim)
    sizes = (tokens, kv_heads, group, head_dim, room, rows, own.longest, pool.shape[2], own.first)
    told = [number for part in parts for some in part for number in (some.data_ptr(), *some.stride()[:3])]
    addresses = map(_address, (q, slots, own.columns, found, pool, own.firsts, own.spans, own.rows))
    block = (*sizes, *q.stride()[:3], *addresses, len(parts), *told)
    _run("mix", q.dtype, tokens * own.longest * kv_heads * head_dim, block)
    return found


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _bits(x: float) -> int:
    return ctypes.c_int64.from_buffer(ctypes.c_double(x)).value


def _run(name: str, dtype: torch.dtype, numbers: int, block: tuple[int, ...]) -> None:
    kernel, told = _kernel(name, dtype), (ctypes.c_int64 * (len(block) + 1))(0, *block)
    if numbers > TEAM:
        _team()(kernel.address, told, torch.get_num_threads(), 0)
    else:
        kernel.ctypes(told)


@functools.cache
def _kernel(name: str, dtype: torch.dtype) -> Any:
    body = getattr(kernels, f"{name}_{'half' if dtype == torch.bfloat16 else 'whole'}")
    try:
        return _compiled(body, cache=True)
    except RuntimeError:  # there is no place where it could be kept
        return _compiled(body, cache=False)


def _compiled(body: Callable[..., None], cache: bool) -> Any:
    block: Any = types.CPointer(types.int64)  # type: ignore[no-untyped-call]
    kernel = cfunc(types.void(block), cache=cache)(body)
    kernel.ctypes.argtypes = [ctypes.c_void_p]
    return kernel
