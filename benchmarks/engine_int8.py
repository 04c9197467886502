"""What fewer bits cost: perplexity of this project's own pages under smollm2, read at once and written token by token.

python benchmarks/engine_int8.py --tokens 512
"""

from __future__ import annotations

import math
from functools import partial
from statistics import fmean

import anyio
import torch
from _common import ROOT, Measured, machine, options, report
from _workloads import paths

from forethought.engine.compute import computed
from forethought.engine.engine import Engine
from forethought.engine.placement import PLAIN
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.reading import Reader


async def perplexities(engine: Engine, ids: tuple[int, ...]) -> tuple[float, float]:
    """Of all after the first half, read in one pass (products of many rows) and forced one by one (of one row)."""
    half = len(ids) // 2
    read = await engine.loglikelihood(ids[:half], ids[half:])
    written = await engine.generate(ids[:half], Sampling(len(ids) - half, forced=ids[half:]), 0)
    return math.exp(-fmean(read)), math.exp(-fmean(written.logprobs))


def main() -> None:
    parser = options(__doc__ or "", 1)
    parser.add_argument("--tokens", type=int, default=2048)
    asked = parser.parse_args()
    before, (path, _) = machine(), paths("smollm2")
    reader, found = Reader(path), list[Measured]()
    texts = [reader.encode(page.read_text())[: asked.tokens] for page in sorted(ROOT.glob("docs/*.md"))]
    half = PLAIN._replace(dtype=torch.bfloat16)
    for name, precision, where in (("fp32", None, PLAIN), ("bf16", None, half), ("int8", "int8", None)):
        model = computed(partial(load, path, precision, where))
        engine = Engine(model, lambda row: False)
        values = [anyio.run(perplexities, engine, ids) for ids in texts]
        found.append(Measured(f"perplexity, {name}, read", "", [read for read, _ in values]))
        found.append(Measured(f"perplexity, {name}, written", "", [written for _, written in values]))
    report("engine-smollm2-int8", found, before, asked.json)


if __name__ == "__main__":
    main()
