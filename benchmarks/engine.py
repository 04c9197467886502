"""The local engine and its peers on the same weights, one workload at a time, interleaved, resumable.

    python benchmarks/engine.py --model reasoner --only a
    python benchmarks/engine.py --quick                        # everything small, one round, no warm-up: does it run?

ceiling: 64 branches against their bare matrix products. prefix: a decode step of 64 branches, with and without attention, as
their shared prefix grows. scaling: 1 to 256 branches, with a plot. tokens: one call of 16 branches as what they write grows.
slots: which parallelism suits llama.cpp best; that is what it has in a, c and d. b: one stream of 128 tokens, eight times in a
round on the reasoner. e: a search tree of 1,000 nodes, depth 20. a: 64 samples of one 256-token prompt, 128 new tokens. c:
beam 16 x 4, 10 steps of 16 tokens, a reward on each. d: 32 problems x 8 samples that come at random times within four seconds,
the reasoner's within one, which is faster than anybody answers them.

Each contender computes in a process of its own, since threads that several libraries keep get in each other's way; while one
works the others sleep. A round is measured contender by contender and saved at once under benchmarks/results/; what is there
already is not measured again, so that a run that was cut goes on. `--fresh` begins anew; `--skip` leaves contenders out whose
names hold a word. Wall and CPU seconds are kept; ratios are of each round. What takes minutes is cut only where the rate stays
what it is: in a llama.cpp writes one sample a slot, of a prompt that it knows, since more of them are the same again; on
smollm2 a round of c is two of its ten steps for every contender, so that five rounds are one search, with a prompt of 64
tokens, and texts of d are half as long as the reasoner's. e and slots are a count and a choice: they have one round. A first
round warms up and is not kept if it is shorter than ten seconds.

Idle, two cores: about 12 minutes for the reasoner; for smollm2 about 12 up to e, 11 for a, 12 for c, 25 for d, and in a many
more for transformers' continuous batching (`--skip continuous`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import torch
from _apart import apart
from _common import RESULTS, installed, machine, options, table
from _rounds import Round, measure, plot, results
from _workloads import Workloads
from rich.console import Console

WORKLOADS = ("ceiling", "prefix", "scaling", "tokens", "slots", "b", "e", "a", "c", "d")
ONCE = ("slots", "e")  # a choice, and a count that no clock changes
PEERS = ("transformers", "xllamacpp", "gguf")  # whose versions are told besides


def described() -> dict[str, Any]:
    told = machine()
    told["packages"] |= {name: found for name in PEERS if (found := installed(name))}
    return told | {"threads": torch.get_num_threads()}


def chosen(found: Mapping[str, Round], skip: str) -> dict[str, Round]:
    words = [word for word in skip.split(",") if word]
    return {name: case for name, case in found.items() if not any(word in name for word in words)}


def main() -> None:
    parser = options(__doc__ or "", 5)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, with commas")
    parser.add_argument("--model", default="reasoner", choices=["reasoner", "smollm2"])
    parser.add_argument("--quick", action="store_true", help="everything small, one round, nothing saved in results")
    parser.add_argument("--skip", default="", help="words of the names of contenders to leave out, with commas")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there already")
    asked = parser.parse_args()
    base = asked.json or (Path(gettempdir()) / "engine-quick" if asked.quick else RESULTS)
    make = partial(Workloads, asked.model, asked.quick, base)
    workloads = make()
    with apart(make) as rounds:
        for which in asked.only.split(","):
            file, names = workloads.file(which), workloads.cases(which)
            if asked.fresh or asked.quick:
                file.unlink(missing_ok=True)
            turns = 1 if asked.quick or which in ONCE else asked.repetitions
            cases = chosen({name: rounds(which, name) for name in names}, asked.skip)
            kept = measure(cases, turns, file, described())
            found = results(which, kept["rounds"])
            file.write_text(json.dumps(kept | {"results": [m.as_json() for m in found]}, indent=2) + "\n")
            Console(width=120).print(table(f"engine, {asked.model}, {which}", found))
            if which == "scaling":
                plot(kept["rounds"], file.with_suffix(".svg"))


if __name__ == "__main__":
    main()
