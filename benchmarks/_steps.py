"""Decode steps alone: how fast they are, what their bare matrix products would take, and what their parts take."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from _contenders import TEMPERATURE, Ids

from forethought.engine import attention as attending
from forethought.engine import llama
from forethought.engine.batch import Batch
from forethought.engine.drawing import Drawing
from forethought.engine.llama import Llama
from forethought.engine.matrix import times
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling

ROOM = 80  # new tokens that a step is timed among
PARTS = {"attention": (llama, "attention"), "shared attention": (attending, "_partial"), "drawing": (Drawing, "extend")}


def batch(model: Llama, ids: Ids, branches: int) -> Batch:
    """Branches that all decode: their prompt has been read."""
    made = Batch(replace(model, eos=frozenset()), 1 << 32, branches, lambda row: False)
    for seed in range(branches):
        made.waiting.append(Row(ids, Sampling(ROOM, TEMPERATURE), seed))
    while made.waiting or made.seats.reading:
        made.run(1)
    assert len(made.live) == branches, "some have ended while others began"
    return made


def decode(model: Llama, ids: Ids, branches: int, steps: int) -> float:
    """Tokens a second of the decode steps alone."""
    made = batch(model, ids, branches)
    made.run(2)
    start = time.perf_counter()
    made.run(steps)
    return branches * steps / (time.perf_counter() - start)


@torch.inference_mode()
def products(model: Llama, branches: int, steps: int) -> float:
    """Tokens a second if a step were nothing but its matrix products: what no engine in this arithmetic can pass."""
    layers = [m for layer in model.layers for m in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    pairs = [(torch.randn(branches, m.shape[0], dtype=m.dtype), m) for m in (*layers, model.head)]
    for x, matrix in pairs:
        times(x, matrix)
    start = time.perf_counter()
    for _ in range(steps):
        for x, matrix in pairs:
            times(x, matrix)
    return branches * steps / (time.perf_counter() - start)


def parts(model: Llama, ids: Ids, branches: int, steps: int, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds by `clock` of a decode step and of its parts."""
    made, spent = batch(model, ids, branches), Counter[str]()
    made.run(2)
    with _timed(spent, clock):
        start = clock()
        made.run(steps)
        spent["step"] = clock() - start
    spent["step without attention"] = spent["step"] - spent["attention"]
    return {name: 1000 * seconds / steps for name, seconds in spent.items()}


@contextmanager
def _timed(spent: Counter[str], clock: Callable[[], float]) -> Iterator[None]:
    """Time the parts of all steps meanwhile."""
    before = {name: getattr(*where) for name, where in PARTS.items()}

    def around(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*given: Any) -> Any:
            start = clock()
            done = act(*given)
            spent[name] += clock() - start
            return done

        return wrapped

    for name, (owner, attribute) in PARTS.items():
        setattr(owner, attribute, around(name, before[name]))
    yield
    for name, (owner, attribute) in PARTS.items():
        setattr(owner, attribute, before[name])
