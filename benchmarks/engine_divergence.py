"""How often a text differs because of who shares its batch: the same samples with no, 1, 7 and 63 neighbours.

    python benchmarks/engine_divergence.py --model reasoner
    python benchmarks/engine_divergence.py --model smollm2       # a single stream for most of the time: ten minutes or so
    python benchmarks/engine_divergence.py --model smollm2 --fp32

A row's random numbers are its own; what differs is the rounding of matrix products of other heights. A token differs where
its draw falls within that on an edge between two tokens. Tokens behind the first that differs are not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import anyio
import torch
from _common import Measured, machine, options, report
from _workloads import paths

from forethought.core.draft import ROOT
from forethought.core.together import together
from forethought.engine.compute import computed
from forethought.engine.engine import Engine
from forethought.engine.llama import Llama
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.local import Local
from forethought.tasks.chain import Chain

NEIGHBOURS = (1, 7, 63)
SAMPLES, TOKENS = 4, 128  # of each problem
PROBLEMS = {"reasoner": 32, "smollm2": 16}  # enough for all neighbours to be there
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Compared:
    """Tokens looked at up to the first that differs, how many texts have one, and how far log-probabilities before are off."""

    tokens: int
    texts: int
    distance: float


def prompts(model: Local, problems: int) -> list[Ids]:
    task = Chain()
    return [model.ids(task.prompt(task.problem(task.middle, i)), ROOT) for i in range(problems)]


def drawn(model: Llama, texts: Sequence[Ids], rows: int) -> list[Row]:
    """The samples of all prompts, where at most so many rows are live at once."""
    engine, how = Engine(model, lambda row: False, rows=rows), Sampling(TOKENS, 0.8)

    async def run() -> list[Row]:
        asked = [(ids, seed) for seed in range(SAMPLES) for ids in texts]
        return await together([partial(engine.generate, ids, how, seed) for ids, seed in asked])

    return anyio.run(run)


def compared(alone: Sequence[Row], others: Sequence[Row]) -> Compared:
    tokens, texts, distance = 0, 0, 0.0
    for a, b in zip(alone, others, strict=True):
        pairs = list(zip(a.tokens, b.tokens, strict=False))
        same = next((i for i, (x, y) in enumerate(pairs) if x != y), len(pairs))
        tokens += min(same + 1, len(pairs))
        texts += same < len(pairs)
        off = (abs(x - y) for x, y in zip(a.logprobs[:same], b.logprobs[:same], strict=True))
        distance = max(distance, *off, 0.0)
    return Compared(tokens, texts, distance)


def main() -> None:
    parser = options(__doc__ or "", 1)
    parser.add_argument("--model", default="reasoner", choices=list(PROBLEMS))
    parser.add_argument("--fp32", action="store_true", help="where bfloat16 is faster, too")
    asked = parser.parse_args()
    before = machine() | {"threads": torch.get_num_threads()}
    local, found = Local(paths(asked.model)[0]), list[Measured]()
    texts = prompts(local, PROBLEMS[asked.model])
    model = computed(lambda: load(local.path, "fp32" if asked.fp32 else None))
    alone = drawn(model, texts, 1)
    for neighbours in NEIGHBOURS:
        told = compared(alone, drawn(model, texts, neighbours + 1))
        name = f"{neighbours} neighbours: "
        found.append(Measured(name + "tokens compared", "", [told.tokens]))
        found.append(Measured(name + f"texts of {len(alone)} that differ", "", [told.texts]))
        found.append(Measured(name + "a million tokens", "", [1e6 * told.texts / told.tokens]))
        found.append(Measured(name + "log-probabilities off by at most", "", [told.distance]))
    kind = str(model.dtype).removeprefix("torch.")
    report(f"engine-{asked.model}-divergence-{kind}", found, before, asked.json)


if __name__ == "__main__":
    main()
