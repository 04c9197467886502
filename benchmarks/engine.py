"""The local engine and its peers on the same weights, one workload at a time, interleaved, resumable.

    python benchmarks/engine.py --model reasoner --only a
    python benchmarks/engine.py --quick                        # everything small, one round, no warm-up: does it run?

ceiling: 64 branches against their bare matrix products. prefix: a decode step of 64 branches, with and without attention, as
their shared prefix grows. scaling: 1 to 256 branches, with a plot. tokens: one call of 16 branches as what they write grows.
slots: which parallelism suits llama.cpp best; that is what it has in a, c and d. b: one stream of 128 tokens. e: a search
tree of 1,000 nodes, depth 20. a: 64 samples of one 256-token prompt, 128 new tokens. c: beam 16 x 4, 10 steps of 16 tokens, a
reward on each. d: 32 problems x 8 samples that come at random times.

A round is measured contender by contender and saved at once under benchmarks/results/; what is there already is not measured
again, so that a run that was cut goes on. `--fresh` begins anew; `--skip` leaves contenders out whose names hold a word. Wall
and CPU seconds are kept; ratios are of each round. What takes minutes is cut only where the rate stays what it is: in a
llama.cpp writes one sample a slot, of a prompt that it knows, since more of them are the same again; on smollm2 a round of c
is two of its ten steps for every contender, so that five rounds are one search, with a prompt of 64 tokens, and texts of d are
half as long as the reasoner's. e and slots are a count and a choice: they have one round. A first round warms up and is not
kept if it is shorter than ten seconds.

Idle, two cores: about 12 minutes for the reasoner; for smollm2 about 12 up to e, 11 for a, 12 for c, 25 for d, and in a many
more for transformers' continuous batching (`--skip continuous`).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Protocol

import anyio
import torch
from _common import RESULTS, installed, machine, options, table
from _contenders import Ask, Continuous, Grade, Judge, Ours, Search, Transformers, Write, prompt, weights
from _llama_cpp import LlamaCpp, readable
from _rounds import Case, measure, plot, results
from _steps import ROOM, decode, parts, products
from rich.console import Console

from forethought.engine.compute import computed
from forethought.engine.llama import Llama
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.pull import path as smollm2
from forethought.reasoner.loader import folder

WORKLOADS = ("ceiling", "prefix", "scaling", "tokens", "slots", "b", "e", "a", "c", "d")
ONCE = ("slots", "e")  # a choice, and a count that no clock changes
PEERS = ("transformers", "xllamacpp", "gguf")  # whose versions are told besides


class Answering(Protocol):
    name: str

    def answer(self, asks: Sequence[Ask]) -> int: ...


class Sizes:
    """What a workload asks for; the small ones show only that everything runs."""

    def __init__(self, model: str, quick: bool) -> None:
        large = model != "reasoner"
        self.prompt, self.samples, self.new = (64, 16, 32) if quick else (256, 64, 128)
        self.beam = (4, 4, 5, 8) if quick else (16, 4, 10, 16)
        self.slices, self.begin = (5, 64) if large else (1, self.prompt)
        self.problems, self.each, self.span = (8, 4, 0.5) if quick else (32, 8, 4.0)
        self.longest, self.most = (self.prompt // 2, self.new // 2) if large else (self.prompt, self.new)
        self.nodes, self.depth, self.node = (100, 8, 8) if quick else (1000, 20, 16)
        self.branches = (1, 4, 16, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.prefixes = (64, 256) if quick else (64, 128, 256, 512, 1024)
        self.steps = 8 if large or quick else 32
        self.slots = (8, 16) if quick else (8, 16, 32)
        self.writing = (8, 16, 32) if quick else (32, 64, 128)


def paths(name: str) -> tuple[Path, Path | None]:
    """The files of a model and of its reward model."""
    path, reward = (folder("generator"), folder("reward")) if name == "reasoner" else (smollm2(), None)
    if path is None:
        raise SystemExit("run `forethought pull smollm2` first")
    return path, reward


def model(name: str) -> Llama:
    return load(paths(name)[0])


class Workloads:
    """The contenders of each workload, on one model."""

    def __init__(self, name: str, sizes: Sizes, base: Path) -> None:
        self._name, self._sizes, self._base = name, sizes, base
        self._path, reward = paths(name)
        self._model, self._judge, theirs, their_judge = computed(lambda: weights(self._path, reward))
        self._ours, self._static = Ours(self._model), Transformers(theirs, their_judge)
        self._continuous = Continuous(theirs)
        self._ids = prompt(self._model, sizes.prompt, 0)

    def cases(self, which: str) -> dict[str, Case]:
        found: dict[str, Case] = getattr(self, which)()
        return found

    def a(self) -> dict[str, Case]:
        s, server = self._sizes, self._llama_cpp()
        asks = [Ask(self._ids, s.samples, s.new)]
        found = {c.name: answering(c, asks) for c in (self._ours, self._static, self._continuous)}
        return found | {server.name: self._house(server)}

    def b(self) -> dict[str, Case]:
        small = Ours(computed(lambda: load(self._path, int8=True)), name="forethought, int8")
        all_of_them = (self._ours, self._static, self._continuous, small, self._server(1))
        return {c.name: answering(c, [Ask(self._ids, 1, self._sizes.new)]) for c in all_of_them}

    def c(self) -> dict[str, Case]:
        s, server = self._sizes, self._llama_cpp()
        ids = self._ids[: s.begin]
        begin: dict[str, Callable[[], tuple[Write, Grade]]] = {
            self._ours.name: lambda: (partial(self._ours.extend, self._ours.engine()), Judge(self._judge)),
            self._static.name: lambda: (self._static.extend, self._static.grades),
            server.name: lambda: (server.extend, Judge(self._judge)),
        }
        return {name: Search(how, ids, s.beam, s.slices) for name, how in begin.items()}

    def d(self) -> dict[str, Case]:
        asks = arrivals(self._model, self._sizes)
        return {c.name: answering(c, asks) for c in (self._ours, self._static, self._llama_cpp())}

    def e(self) -> dict[str, Case]:
        return {"tokens computed / unique tokens": lambda _: tree(self._ours, self._ids, self._sizes)}

    def slots(self) -> dict[str, Case]:
        servers = [self._server(n) for n in self._sizes.slots]
        return {server.name: self._house(server) for server in servers}

    def ceiling(self) -> dict[str, Case]:
        return self._decoding(self._sizes.samples, "")

    def scaling(self) -> dict[str, Case]:
        return {name: case for n in self._sizes.branches for name, case in self._decoding(n, f", {n}").items()}

    def tokens(self) -> dict[str, Case]:
        def seconds(new: int, _: int) -> float:
            start = time.perf_counter()
            self._ours.answer([Ask(self._ids, 16, new)])
            return time.perf_counter() - start

        return {f"16 branches, {new} new tokens": partial(seconds, new) for new in self._sizes.writing}

    def prefix(self) -> dict[str, Case]:
        s, longest = self._sizes, self._model.shape.positions - ROOM

        def timed(known: int, _: int) -> dict[str, float]:
            ids = prompt(self._model, known, known)
            return computed(lambda: parts(self._model, ids, s.samples, s.steps, time.perf_counter))

        return {str(n): partial(timed, n) for n in (min(n, longest) for n in s.prefixes)}

    def file(self, which: str) -> Path:
        return self._base / f"engine-{self._name}-{which}.json"

    def _decoding(self, branches: int, tail: str) -> dict[str, Case]:
        steps = max(self._sizes.steps, min(32, 64 // branches))
        return {
            f"engine{tail}": lambda _: computed(lambda: decode(self._model, self._ids, branches, steps)),
            f"bare products{tail}": lambda _: computed(lambda: products(self._model, branches, steps)),
        }

    def _server(self, slots: int) -> LlamaCpp:
        s, (_, _, steps, size) = self._sizes, self._sizes.beam
        file = computed(lambda: readable(self._path, Path(gettempdir()) / "engine-gguf"))
        return LlamaCpp(file, slots, s.prompt + max(s.new, steps * size), torch.get_num_threads())

    def _house(self, server: LlamaCpp) -> Case:
        """A sample a slot, which know the prompt already: more samples are the same again."""
        server.answer([Ask(self._ids, server.slots, 1)])
        return answering(server, [Ask(self._ids, server.slots, self._sizes.new)])

    def _llama_cpp(self) -> LlamaCpp:
        """With as many slots as were fastest."""
        file = self.file("slots")
        kept = json.loads(file.read_text()) if file.exists() else measure("slots", self.slots(), 1, file, described())
        rates = {name: told[0]["value"] for name, told in kept["rounds"].items()}
        return self._server(next(n for n in self._sizes.slots if f" {n} " in max(rates, key=rates.__getitem__)))


def answering(contender: Answering, asks: Sequence[Ask]) -> Case:
    return lambda _: contender.answer(asks)


def arrivals(model: Llama, sizes: Sizes) -> list[Ask]:
    """Problems of different lengths at random times, each for several samples of random lengths."""
    rng = random.Random(1)
    times = sorted(rng.uniform(0, sizes.span) for _ in range(sizes.problems))
    asks = list[Ask]()
    for i, at in enumerate(times):
        ids = prompt(model, rng.randint(sizes.longest // 4, sizes.longest), i)
        asks += [Ask(ids, 1, rng.randint(sizes.most // 8, sizes.most), at) for _ in range(sizes.each)]
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


def described() -> dict[str, Any]:
    told = machine()
    told["packages"] |= {name: found for name in PEERS if (found := installed(name))}
    return told | {"threads": torch.get_num_threads()}


def chosen(found: Mapping[str, Case], skip: str) -> dict[str, Case]:
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
    workloads = Workloads(asked.model, Sizes(asked.model, asked.quick), base)
    for which in asked.only.split(","):
        file = workloads.file(which)
        if asked.fresh or asked.quick:
            file.unlink(missing_ok=True)
        rounds = 1 if asked.quick or which in ONCE else asked.repetitions
        kept = measure(which, chosen(workloads.cases(which), asked.skip), rounds, file, described())
        found = results(which, kept["rounds"])
        file.write_text(json.dumps(kept | {"results": [m.as_json() for m in found]}, indent=2) + "\n")
        Console(width=120).print(table(f"engine, {asked.model}, {which}", found))
        if which == "scaling":
            plot(kept["rounds"], file.with_suffix(".svg"))


if __name__ == "__main__":
    main()
