"""Tokens a second of the local engine, and the share of what its bare matrix products would allow.

Prediction for the embedded generator (1M parameters in fp32, 4 layers of width 128): at one branch the limit is the number
of operations started, about 100 tensor operations a token of 2 to 5 us each, so about 2,000 tokens a second, of which the
4 MB of weights, in the cache of the processor, take a tenth. At 64 branches the products have 0.13 GFLOP a step, 1 to 2 ms on
two cores, and attention over rows, sampling and bookkeeping cost about as much again: 20,000 to 30,000 tokens a second, half
of the ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import torch
from _common import Measured, interleaved, machine, options, ratios, report
from _steps import products

from forethought.core.draft import ROOT
from forethought.engine.compute import computed
from forethought.engine.engine import Engine
from forethought.engine.llama import Llama
from forethought.engine.sampling import Sampling
from forethought.models.local import Local
from forethought.reasoner.loader import folder
from forethought.tasks.chain import Chain

BRANCHES = (1, 8, 64)
TOKENS = 128


def prompt(model: Local) -> tuple[int, ...]:
    task = Chain()
    return model.ids(task.prompt(task.problem(task.middle, 0)), ROOT)


async def decode(engine: Engine, ids: Sequence[int], branches: int) -> None:
    """All branches of one prompt, to their last token."""
    how = Sampling(TOKENS, temperature=0.8)
    async with anyio.create_task_group() as tasks:
        for seed in range(branches):
            tasks.start_soon(engine.generate, ids, how, seed)


def engine_speed(model: Llama, ids: Sequence[int], branches: int) -> float:
    """Tokens a second of a new engine, prefill of the prompt and all bookkeeping included.

    No token ends a text, so that the batch stays full and every run does the same work.
    """
    engine = Engine(replace(model, eos=frozenset()), lambda row: False)
    start = time.perf_counter()
    anyio.run(decode, engine, ids, branches)
    return branches * TOKENS / (time.perf_counter() - start)


def ceiling(model: Llama, branches: int) -> float:
    """Tokens a second of the matrix products alone, in the thread in which the engine has its own."""
    return computed(lambda: products(model, branches, TOKENS))


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument(
        "--model", type=Path, default=folder("generator"), help="a model folder (default: the embedded)"
    )
    asked = parser.parse_args()
    before = machine() | {"threads": torch.get_num_threads()}
    local = Local(asked.model)
    model, ids = local.engine.model, prompt(local)
    cases = {f"engine, {n} branches": partial(engine_speed, model, ids, n) for n in BRANCHES}
    cases |= {f"bare products, {n} branches": partial(ceiling, model, n) for n in BRANCHES}
    speeds = interleaved(cases, asked.repetitions)
    measured = [Measured(name, "tokens/s", values) for name, values in speeds.items()]
    for n in BRANCHES:
        shares = ratios(speeds[f"engine, {n} branches"], speeds[f"bare products, {n} branches"])
        measured.append(Measured(f"engine / bare products, {n} branches", "", shares))
    report("engine_tokens", measured, before, asked.json)


if __name__ == "__main__":
    main()
