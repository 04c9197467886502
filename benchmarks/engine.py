"""The local engine and its peers on the same weights, one workload at a time, interleaved, resumable.

    python benchmarks/engine.py --model reasoner --only a      # a, b, c, d, e, ceiling, scaling, prefix
    python benchmarks/engine.py --quick                        # everything small, one round, no warm-up: does it run?

a: 64 samples of one 256-token prompt, 128 new tokens. b: one stream of 128 tokens. c: beam 16 x 4, 10 steps of 16 tokens,
a reward on each. d: 32 problems x 8 samples that come at random times. e: a search tree of 1,000 nodes, depth 20.
ceiling: 64 branches against their bare matrix products. scaling: 1 to 256 branches. prefix: step time at 64 branches as
their shared prefix grows.

A round is measured contender by contender and saved at once under benchmarks/results/; what is there already is not measured
again, so that a run that was cut goes on. `--fresh` begins anew; `--skip` leaves contenders out whose names hold a word. Wall
and CPU seconds are kept; ratios are of each round.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import anyio
import torch
from _common import RESULTS, Measured, machine, options, ratios, table
from _contenders import Ask, Continuous, LlamaCpp, Ours, Transformers, prompt, weights
from rich.console import Console

from forethought.engine.batch import Batch
from forethought.engine.llama import Llama
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.pull import path as smollm2
from forethought.reasoner.loader import folder

ROOM = 80  # new tokens that a step is timed among
Case = Callable[[], float]  # does the work and returns how much of it: tokens, or a figure of its own


class Sizes:
    """What a workload asks for; the small ones show only that everything runs."""

    def __init__(self, quick: bool) -> None:
        self.prompt, self.samples, self.new = (64, 16, 32) if quick else (256, 64, 128)
        self.beam = (4, 4, 3, 8) if quick else (16, 4, 10, 16)
        self.problems, self.each, self.span = (8, 4, 0.5) if quick else (32, 8, 4.0)
        self.nodes, self.depth, self.node = (100, 8, 8) if quick else (1000, 20, 16)
        self.branches = (1, 4, 16, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.prefixes = (64, 256) if quick else (64, 128, 256, 512, 1024)
        self.steps = 8 if quick else 32


def paths(name: str) -> tuple[Path, Path | None]:
    """The files of a model and of its reward model."""
    path, reward = (folder("generator"), folder("reward")) if name == "reasoner" else (smollm2(), None)
    if path is None:
        raise SystemExit("run `forethought pull smollm2` first")
    return path, reward


def model(name: str) -> Llama:
    return load(paths(name)[0])


def cases(which: str, name: str, sizes: Sizes) -> dict[str, Case]:
    """The contenders of a workload."""
    path, reward = paths(name)
    generator, judge, theirs, their_judge = weights(path, reward)
    ours, static = Ours(generator, judge), Transformers(theirs, their_judge)
    ids = prompt(generator, sizes.prompt, 0)
    if which == "c":
        return {c.name: partial(c.beam, ids, *sizes.beam) for c in (ours, static)}
    if which == "d":
        return {c.name: partial(c.answer, arrivals(generator, sizes)) for c in (ours, static)}
    if which == "e":
        return {"tokens computed / unique tokens": partial(tree, ours, ids, sizes)}
    if which == "ceiling":
        return {"engine": partial(decode, generator, ids, sizes.samples, sizes.steps)} | {
            "bare products": partial(products, generator, sizes.samples, sizes.steps)
        }
    if which == "scaling":
        found = {f"engine, {n} branches": partial(decode, generator, ids, n, sizes.steps) for n in sizes.branches}
        return found | {f"bare products, {n}": partial(products, generator, n, sizes.steps) for n in sizes.branches}
    if which == "prefix":
        return {
            f"prefix of {n}": partial(decode, generator, prompt(generator, n, n), sizes.samples, sizes.steps)
            for n in (min(n, generator.shape.positions - ROOM) for n in sizes.prefixes)
        }
    ask = [Ask(ids, sizes.samples if which == "a" else 1, sizes.new)]
    found = {c.name: partial(c.answer, ask) for c in (ours, static, Continuous(theirs))}
    if which == "b":
        small = Ours(load(path, int8=True), judge, name="forethought, int8")
        found[small.name] = partial(small.answer, ask)
    if path.suffix == ".gguf":
        for slots in (1,) if which == "b" else (8, 16) if sizes.samples < 32 else (8, 16, 32):
            context = slots * (sizes.prompt + sizes.new + 8)
            server = LlamaCpp(path, slots, context, torch.get_num_threads())
            found[server.name] = partial(server.answer, ask)
    return found


def arrivals(model: Llama, sizes: Sizes) -> list[Ask]:
    """Problems of different lengths at random times, each for several samples of random lengths."""
    rng = random.Random(1)
    times = sorted(rng.uniform(0, sizes.span) for _ in range(sizes.problems))
    asks = list[Ask]()
    for i, at in enumerate(times):
        ids = prompt(model, rng.randint(sizes.prompt // 4, sizes.prompt), i)
        asks += [Ask(ids, 1, rng.randint(sizes.new // 8, sizes.new), at) for _ in range(sizes.each)]
    return asks


def tree(ours: Ours, ids: tuple[int, ...], sizes: Sizes) -> float:
    """Grow a random tree, a level at a time. Returns tokens computed over tokens that are in it."""
    rng, engine = random.Random(2), ours.engine()
    depth = [0]
    children: list[tuple[int, int]] = []  # parent, child
    while len(depth) <= sizes.nodes:
        parent = rng.choice([i for i, d in enumerate(depth) if d < sizes.depth and (d >= len(depth) // 60 or not d)])
        children.append((parent, len(depth)))
        depth.append(depth[parent] + 1)
    texts = {0: ids}

    async def grow() -> None:
        async def one(parent: int, child: int) -> None:
            first = 10 + child % (engine.model.vocabulary - 10)  # no two siblings are the same
            row = await engine.generate(texts[parent], Sampling(sizes.node, 0.8, forced=(first,)), child)
            texts[child] = (*texts[parent], *row.tokens)

        for level in range(1, max(depth) + 1):
            async with anyio.create_task_group() as tasks:
                for parent, child in children:
                    if depth[child] == level:
                        tasks.start_soon(one, parent, child)

    anyio.run(grow)
    unique = {text[:end] for text in texts.values() for end in range(1, len(text) + 1)}
    return engine.statistics.tokens_computed / len(unique)


def batch(model: Llama, ids: tuple[int, ...], branches: int) -> Batch:
    """Branches that all decode: their prompt has been read."""
    made = Batch(Ours(model, model).model, 1 << 30, branches, lambda row: False)
    for seed in range(branches):
        made.waiting.append(Row(ids, Sampling(ROOM, 0.8), seed))
    while made.waiting or made.seats.reading:
        made.run(1)
    return made


def decode(model: Llama, ids: tuple[int, ...], branches: int, steps: int) -> float:
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
    pairs = [(torch.randn(branches, m.shape[0]), m) for m in (*layers, model.head)]
    for x, matrix in pairs:
        torch.mm(x, matrix)
    start = time.perf_counter()
    for _ in range(steps):
        for x, matrix in pairs:
            torch.mm(x, matrix)
    return branches * steps / (time.perf_counter() - start)


RATES = {"a", "b", "c", "d"}  # of these, work over wall seconds is what is compared


def measure(
    which: str, found: Mapping[str, Case], rounds: int, file: Path, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Round by round and contender by contender, every other round backwards. Where there is more than one, a first round
    warms up and is not kept.
    """
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"machine": before, "rounds": {}}
    warm = set[str]()
    for turn in range(rounds):
        for name in list(found)[:: -1 if turn % 2 else 1]:
            values = kept["rounds"].setdefault(name, [])
            if len(values) > turn:
                continue
            if name not in warm and rounds > 1:
                found[name]()
                warm.add(name)
            wall, cpu = time.perf_counter(), time.process_time()
            work = found[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            values.append({"value": work / wall if which in RATES else work, "wall": wall, "cpu": cpu})
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(kept, indent=2) + "\n")
    return kept


def shown(which: str, kept: Mapping[str, Any]) -> list[Measured]:
    values = {name: [r["value"] for r in rounds] for name, rounds in kept["rounds"].items()}
    unit = "" if which == "e" else "tokens/s"
    found = [Measured(name, unit, v) for name, v in values.items()]
    first, *others = values
    if which in {*RATES, "ceiling"}:
        found += [Measured(f"{first} / {name}", "", ratios(values[first], values[name])) for name in others]
        cpu = {name: [r["cpu"] for r in rounds] for name, rounds in kept["rounds"].items()}
        found += [Measured(f"CPU seconds: {name} / {first}", "", ratios(cpu[name], cpu[first])) for name in others]
    return found


def plot(kept: Mapping[str, Any], file: Path) -> None:
    """Tokens a second over branches, with the ceiling."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for kind in ("engine", "bare products"):
        points = [(int("".join(filter(str.isdigit, n))), r) for n, r in kept["rounds"].items() if n.startswith(kind)]
        middle = [sorted(v["value"] for v in rounds)[len(rounds) // 2] for _, rounds in points]
        axes.loglog([n for n, _ in points], middle, "o-", label=kind)
    axes.set(xlabel="branches", ylabel="tokens/s")
    axes.legend()
    figure.savefig(file)


def main() -> None:
    parser = options(__doc__ or "", 5)
    parser.add_argument("--only", default="a,b,c,d,e,ceiling,scaling,prefix", help="workloads, with commas")
    parser.add_argument("--model", default="reasoner", choices=["reasoner", "smollm2"])
    parser.add_argument("--quick", action="store_true", help="everything small, one round, nothing saved in results")
    parser.add_argument("--skip", default="", help="words of the names of contenders to leave out, with commas")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there already")
    asked = parser.parse_args()
    sizes, base = Sizes(asked.quick), asked.json or (Path(gettempdir()) / "engine-quick" if asked.quick else RESULTS)
    for which in asked.only.split(","):
        file = base / f"engine-{asked.model}-{which}.json"
        if asked.fresh or asked.quick:
            file.unlink(missing_ok=True)
        before = machine() | {"threads": torch.get_num_threads()}
        found = cases(which, asked.model, sizes)
        found = {name: case for name, case in found.items() if not any(w in name for w in asked.skip.split(",") if w)}
        kept = measure(which, found, 1 if asked.quick else asked.repetitions, file, before)
        Console(width=120).print(table(f"engine, {asked.model}, {which}", shown(which, kept)))
        if which == "scaling":
            plot(kept, file.with_suffix(".svg"))


if __name__ == "__main__":
    main()
