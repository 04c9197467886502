"""Kernels over blocks of numbers, for numba to compile: see `compiled`, which calls them.

Numbers of a `kind` are fp32, or bfloat16 as unsigned integers, which are the upper halves of those in fp32. All is in this one
file since numba keeps what it has compiled by the time of its file alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, float32, int32, int64, njit, types, uint16
from numba.extending import intrinsic, overload

ROWS = 8  # taken from the counter at once
# All of fast mathematics but two: a NaN has to stay one, so that a broken row is seen, and infinity hides.
FAST: dict[str, Any] = {"fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"}, "error_model": "numpy"}
ANY: dict[str, Any] = {"fastmath": True, "error_model": "numpy"}


@intrinsic
def _pointer(_, address, kind):
    """The pointer to numbers of a kind at an address."""

    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.instance_type)(address, kind), code


@njit(**FAST)
def _array(address, kind, shape):
    """The array of numbers of a kind at an address."""
    return carray(_pointer(address, kind), shape)


@intrinsic
def _take(_, counter, more):
    """What the counter stood at, before so many more were taken, by whichever thread."""

    def code(context, builder, signature, args):
        return builder.atomic_rmw("add", args[0], args[1], "monotonic")

    return types.int64(counter, more), code


def _get(numbers, i): ...
def _put(numbers, i, x): ...


@overload(_get, jit_options=FAST)
def _(numbers, i):
    if numbers.dtype == types.float32:
        return lambda numbers, i: numbers[i]
    return lambda numbers, i: np.uint32(np.uint32(numbers[i]) << np.uint32(16)).view(np.float32)


@overload(_put, jit_options=FAST)
def _(numbers, i, x):
    def whole(numbers, i, x):
        numbers[i] = x

    def half(numbers, i, x):  # to the nearest, ties to even
        bits = np.float32(x).view(np.uint32)
        numbers[i] = np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

    return whole if numbers.dtype == types.float32 else half


@njit(**FAST)
def _real(bits):
    return float32(np.int64(bits).view(np.float64))


@njit(**FAST)
def _exp(x):
    """e^x but for 2e-7 of it (times |x| if that is more): powers of two by the exponent's bits, what is between them by a
    polynomial. NaN stays NaN.
    """
    y = x * float32(1.4426950408889634)
    y = float32(-126.0) if y < float32(-126.0) else y  # noqa: FURB136 - `max` may lose a NaN
    y = float32(126.0) if y > float32(126.0) else y  # noqa: FURB136
    whole = np.rint(y)
    z = (y - whole) * float32(0.6931471805599453)
    p = float32(1 / 120) + z * float32(1 / 720)
    p = float32(1 / 2) + z * (float32(1 / 6) + z * (float32(1 / 24) + z * p))
    p = float32(1) + z * (float32(1) + z * p)
    return p * np.int32((int32(whole) + int32(127)) << int32(23)).view(np.float32)


@njit(**FAST)
def _inverse_norm(x, floor):
    total = float32(0)
    for i in range(x.size):
        total += x[i] * x[i]
    return float32(1) / np.sqrt(total + floor)


@njit(**FAST)
def _scaled(x, scale, to):
    for i in range(x.size):
        _put(to, i, _get(x, i) * scale)


@njit(**FAST)
def _biased(x, bias):
    for i in range(bias.size):
        x[i] += _get(bias, i)


@njit(**FAST)
def _normed(x, norm, floor):
    """RMS norm of a head, if it has one."""
    if norm.size:
        scale = _inverse_norm(x, floor) * np.sqrt(float32(x.size))
        for i in range(x.size):
            x[i] *= scale * norm[i]


@njit(**FAST)
def _turned(x, turns, to):
    """Pairs as complex numbers, multiplied."""
    for i in range(0, x.size, 2):
        _put(to, i, x[i] * turns[i] - x[i + 1] * turns[i + 1])
        _put(to, i + 1, x[i + 1] * turns[i] + x[i] * turns[i + 1])


@njit(**FAST)
def _turn(block, kind):
    a = carray(block, (16,), int64)
    tokens, width, kv_heads, group, head_dim = a[1], a[2], a[3], a[4], a[5]
    floor, norm_floor, heads = _real(a[6]), _real(a[7]), a[3] * a[4]
    x = _array(a[8], float32, (tokens, width))
    qkv = _array(a[9], kind, (tokens, heads + 2 * kv_heads, head_dim))
    bias = _array(a[10], kind, (heads + 2 * kv_heads, head_dim if a[10] else 0))
    norms = _array(a[11], float32, (heads + kv_heads, head_dim if a[11] else 0))
    turns = _array(a[12], float32, (tokens, head_dim))
    places = _array(a[13], int64, (tokens, 2 * kv_heads))
    kv = _array(a[14], kind, (np.int64(1) << 40, head_dim))
    q = _array(a[15], kind, (kv_heads, tokens, group, head_dim))
    head = np.empty(head_dim, np.float32)
    while True:
        first = _take(block, ROWS)
        if first >= tokens:
            return
        for t in range(first, min(first + ROWS, tokens)):
            scale = _inverse_norm(x[t], floor)
            for h in range(heads + 2 * kv_heads):
                _scaled(qkv[t, h], scale, head)
                _biased(head, bias[h])
                if h < heads + kv_heads:
                    _normed(head, norms[h], norm_floor)
                if h < heads:
                    _turned(head, turns[t], q[h // group, t, h % group])
                elif h < heads + kv_heads:
                    _turned(head, turns[t], kv[places[t, h - heads]])
                else:
                    _scaled(head, float32(1), kv[places[t, h - heads]])


@njit(**FAST)
def _gated(gates, ups, scale, to):
    for i in range(to.size):
        x = _get(gates, i) * scale
        _put(to, i, x / (float32(1) + _exp(-x)) * (_get(ups, i) * scale))


@njit(**FAST)
def _gate(block, kind):
    a = carray(block, (8,), int64)
    tokens, width, inner, floor = a[1], a[2], a[3], _real(a[4])
    x = _array(a[5], float32, (tokens, width))
    gate_up = _array(a[6], kind, (tokens, 2, inner))
    found = _array(a[7], kind, (tokens, inner))
    while True:
        first = _take(block, ROWS)
        if first >= tokens:
            return
        for t in range(first, min(first + ROWS, tokens)):
            _gated(gate_up[t, 0], gate_up[t, 1], _inverse_norm(x[t], floor), found[t])


@njit(**FAST)
def _scores(q, keys, scores):
    for j in range(scores.size):
        key, total = keys[j], float32(0)
        for i in range(q.size):
            total += q[i] * _get(key, i)
        scores[j] = total


@njit(**ANY)  # or there is no maximum of many at once; a NaN is in its own score still
def _largest(scores):
    most = scores[0]
    for j in range(scores.size):
        most = max(most, scores[j])
    return most


@njit(**FAST)
def _weigh(scores, most):
    """Scores to weights that are not normalised. Returns their sum."""
    for j in range(scores.size):
        scores[j] = _exp(scores[j] - most)
    total = float32(0)
    for j in range(scores.size):
        total += scores[j]
    return total


@njit(**FAST)
def _add(weights, values, to):
    """Add values, four at a time: each pass reads and writes `to`."""
    n = weights.size
    for j in range(0, n - 3, 4):
        a, b, c, d = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        va, vb, vc, vd = values[j], values[j + 1], values[j + 2], values[j + 3]
        for i in range(to.size):
            to[i] += a * _get(va, i) + b * _get(vb, i) + c * _get(vc, i) + d * _get(vd, i)
    for j in range(n - n % 4, n):
        weight, value = weights[j], values[j]
        for i in range(to.size):
            to[i] += weight * _get(value, i)


PARTS = 22  # where in its block `mix` is told of the parts


@njit(**FAST)
def _part(a, p, side, row, head, query, size):
    """Of part `p` the output (side 0) or log-sum-exp (side 1) of a query."""
    b = PARTS + 8 * p + 4 * side
    at = row * a[b + 1] + head * a[b + 2] + query * a[b + 3]
    return _array(a[b] + 4 * at, float32, (size,))


@njit(**FAST)
def _weighed(a, scores, row, head, query):
    """Scores, and those of the parts, to weights that are not normalised. Returns their sum and what was the largest."""
    most = _largest(scores)
    for p in range(a[PARTS - 1]):
        most = max(most, _part(a, p, 1, row, head, query, 1)[0])
    return _weigh(scores, most), most


@njit(**FAST)
def _add_parts(a, most, row, head, query, to):
    """Add what the parts found. Returns the sum of their weights."""
    total = float32(0)
    for p in range(a[PARTS - 1]):
        weight, value = _exp(_part(a, p, 1, row, head, query, 1)[0] - most), _part(a, p, 0, row, head, query, to.size)
        total += weight
        for i in range(to.size):
            to[i] += weight * value[i]
    return total


@njit(**FAST)
def _attend(a, q, keys, values, pool, spans, scores, row, head, query, to):
    """Add up in `to` what a query mixes, not normalised: its spans of the pool, its columns, the parts. Returns the sum of the
    weights.
    """
    n = 0
    for s in range(len(spans)):
        at, length = spans[s, 0], spans[s, 1]
        _scores(q, pool[0, head, at : at + length], scores[n : n + length])
        n += length
    _scores(q, keys, scores[n : n + len(keys)])
    total, most = _weighed(a, scores[: n + len(keys)], row, head, query)
    to[:] = 0
    total += _add_parts(a, most, row, head, query, to)
    n = 0
    for s in range(len(spans)):
        at, length = spans[s, 0], spans[s, 1]
        _add(scores[n : n + length], pool[1, head, at : at + length], to)
        n += length
    _add(scores[n : n + len(keys)], values, to)
    return total


@njit(**FAST)
def _mix(block, kind, bytes_):
    a = carray(block, (1 << 10,), int64)
    tokens, kv_heads, group, head_dim, room, slots, any_ = a[1], a[2], a[3], a[4], a[5], a[6], np.int64(1) << 40
    kv = _array(a[14], kind, (2, slots, kv_heads, room, head_dim))
    pool = _array(a[17], kind, (2, kv_heads, a[8], head_dim))
    columns, found = _array(a[15], int64, (tokens,)), _array(a[16], kind, (tokens, kv_heads, group, head_dim))
    firsts, spans, rows = (
        _array(a[18], int64, (any_,)),
        _array(a[19], int64, (any_, 2)),
        _array(a[20], int64, (any_,)),
    )
    scores, q, to = np.empty(a[7], np.float32), np.empty(head_dim, np.float32), np.empty(head_dim, np.float32)
    while True:
        item = _take(block, 1)
        if item >= tokens * kv_heads:
            return
        token, head = item // kv_heads, item % kv_heads
        row = rows[token] if a[20] else token
        own, stop = spans[firsts[row] : firsts[row + 1]], columns[token] + 1
        keys, values = kv[0, a[9] + row, head, :stop], kv[1, a[9] + row, head, :stop]
        for query in range(group):
            at = a[13] + bytes_ * (token * a[10] + head * a[11] + query * a[12])
            _scaled(_array(at, kind, (head_dim,)), float32(1), q)
            total = _attend(a, q, keys, values, pool, own, scores, token, head, query, to)
            _scaled(to, float32(1) / total, found[token, head, query])


def turn_whole(block):
    _turn(block, float32)


def turn_half(block):
    _turn(block, uint16)


def gate_whole(block):
    _gate(block, float32)


def gate_half(block):
    _gate(block, uint16)


def mix_whole(block):
    _mix(block, float32, 4)


def mix_half(block):
    _mix(block, uint16, 2)
