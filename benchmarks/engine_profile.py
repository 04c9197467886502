"""Where the time of a decode step goes, and how it grows with what the branches share.

    python benchmarks/engine_profile.py --model smollm2

For each length of the shared prefix: CPU milliseconds of a whole step, of attention (timed around it, and of this what is
shared), of drawing tokens, and of the bare matrix products of the same shapes. CPU time is what is kept, since a step waits
for nobody: numbers of a loaded machine are rough, but not nonsense.
"""

from __future__ import annotations

import time

import torch
from _common import Measured, machine, options, report
from _contenders import prompt
from _steps import ROOM, parts, products
from _workloads import model as chosen

from forethought.engine.compute import computed
from forethought.engine.llama import Llama


def step(model: Llama, prefix: int, branches: int, steps: int) -> dict[str, float]:
    """CPU milliseconds of one step, of its parts and of its bare products."""
    spent = parts(model, prompt(prefix, prefix), branches, steps, time.process_time)
    start = time.process_time()
    products(model, branches, steps)
    return spent | {"bare products": 1000 * (time.process_time() - start) / (steps + 1)}  # one of them warms up


def main() -> None:
    parser = options(__doc__ or "", 5)
    parser.add_argument("--model", default="reasoner", choices=["reasoner", "smollm2"])
    parser.add_argument("--branches", type=int, default=64)
    parser.add_argument("--prefixes", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=32)
    asked = parser.parse_args()
    before, model = machine() | {"threads": torch.get_num_threads()}, chosen(asked.model)
    prefixes = [min(prefix, model.shape.positions - ROOM) for prefix in asked.prefixes]
    rounds = [
        {prefix: step(model, prefix, asked.branches, asked.steps) for prefix in prefixes}
        for _ in range(asked.repetitions)
    ]
    found = [
        Measured(f"{name}, prefix of {prefix}", "ms", [r[prefix][name] for r in rounds])
        for prefix in prefixes
        for name in rounds[0][prefix]
    ]
    report(f"engine-{asked.model}-profile", found, before, asked.json)


if __name__ == "__main__":
    computed(main)
