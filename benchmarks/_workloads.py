"""What `engine.py` measures: the cases of each workload, by the name of who does it."""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import gettempdir
from typing import Any, Protocol

import anyio
import torch
from _contenders import Ask, Continuous, Grade, Judge, Ours, Search, Transformers, Write, judges, prompt, theirs
from _llama_cpp import LlamaCpp, halved
from _rounds import Case
from _steps import ROOM, decode, parts, products

from forethought.engine.compute import computed
from forethought.engine.llama import Llama
from forethought.engine.sampling import Sampling
from forethought.engine.weights import load
from forethought.models.pull import path as smollm2
from forethought.reasoner.loader import folder

OURS, INT8, STATIC, CONTINUOUS = "forethought", "forethought, int8", "transformers.generate", "transformers continuous"
LLAMA = "llama.cpp, {} slots"


def contender(name: str) -> str:
    """Who runs the case of this name."""
    return name if name.startswith((INT8, STATIC, CONTINUOUS, "llama.cpp")) else OURS


class Answering(Protocol):
    def answer(self, asks: Sequence[Ask]) -> list[float]:
        """Write what is asked for. Returns how long each text was waited for, in seconds."""
        ...


def answered(contender: Answering, calls: Sequence[Sequence[Ask]]) -> dict[str, float]:
    """Tokens a second of the calls one after another, and how long a text was waited for."""
    start = time.perf_counter()
    waited = [seconds for asks in calls for seconds in contender.answer(asks)]
    tokens = sum(ask.samples * ask.new for asks in calls for ask in asks)
    return {"value": tokens / (time.perf_counter() - start), "waited": fmean(waited)}


class Sizes:
    """What a workload asks for; the small ones show only that everything runs."""

    def __init__(self, model: str, quick: bool) -> None:
        large = model != "reasoner"
        self.prompt, self.samples, self.new = (64, 16, 32) if quick else (256, 64, 128)
        self.beam = (4, 4, 5, 8) if quick else (16, 4, 10, 16)
        self.slices, self.begin = (5, 64) if large else (1, self.prompt)
        self.problems, self.each, self.span = (8, 4, 0.5) if quick else (32, 8, 4.0 if large else 1.0)
        self.longest, self.most = (self.prompt // 2, self.new // 2) if large else (self.prompt, self.new)
        self.nodes, self.depth, self.node = (100, 8, 8) if quick else (1000, 20, 16)
        self.branches = (1, 4, 16, 64) if quick else (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.prefixes = (64, 256) if quick else (64, 128, 256, 512, 1024 if large else 1024 - ROOM)
        self.steps = 8 if large or quick else 64
        self.streams = 1 if large or quick else 8  # one of the reasoner is over too soon
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
    """The cases of each workload, on one model. What a case needs is read from files when it is run first."""

    def __init__(self, name: str, quick: bool, base: Path) -> None:
        self._name, self._sizes, self._base = name, Sizes(name, quick), base
        self._path, self._reward = paths(name)
        self._ids = prompt(self._sizes.prompt, 0)
        self.cases: Callable[[str], dict[str, Case]] = functools.cache(self._cases)
        self._contender: Callable[[str], Any] = functools.cache(self._made)

    def _cases(self, which: str) -> dict[str, Case]:
        found: dict[str, Case] = getattr(self, which)()
        return found

    def prepare(self, which: str, name: str) -> None:
        """Read what a case needs, so that its first round does not."""
        made = self._contender(contender(name))
        if which == "c":
            _ = self._judges
        if which in ("a", "slots") and isinstance(made, LlamaCpp):
            made.know(self._ids)

    def file(self, which: str) -> Path:
        return self._base / f"engine-{self._name}-{which}.json"

    def a(self) -> dict[str, Case]:
        asks, server = [Ask(self._ids, self._sizes.samples, self._sizes.new)], self._fastest()
        servers = {name: self._house(name) for name in (server, *self._halves(server))}
        return self._answers([asks], OURS, STATIC, CONTINUOUS) | servers

    def b(self) -> dict[str, Case]:
        streams = [[Ask(self._ids, 1, self._sizes.new)]] * self._sizes.streams
        server = LLAMA.format(1)
        return self._answers(streams, OURS, STATIC, CONTINUOUS, INT8, server, *self._halves(server))

    def c(self) -> dict[str, Case]:
        s, server = self._sizes, self._fastest()
        begin: dict[str, Callable[[], tuple[Write, Grade]]] = {
            OURS: lambda: (partial(self._ours.extend, self._ours.engine()), Judge(self._judges[0])),
            STATIC: lambda: (self._contender(STATIC).extend, self._contender(STATIC).grades),
            server: lambda: (self._contender(server).extend, Judge(self._judges[0])),
        }
        return {name: Search(how, self._ids[: s.begin], s.beam, s.slices) for name, how in begin.items()}

    def d(self) -> dict[str, Case]:
        return self._answers([arrivals(self._sizes)], OURS, STATIC, self._fastest())

    def e(self) -> dict[str, Case]:
        return {"tokens computed / unique tokens": lambda _: tree(self._ours, self._ids, self._sizes)}

    def slots(self) -> dict[str, Case]:
        return {name: self._house(name) for name in map(LLAMA.format, self._sizes.slots)}

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
        s = self._sizes

        def timed(known: int, _: int) -> dict[str, float]:
            how = self._model, prompt(known, known), s.samples, s.steps, time.perf_counter
            return computed(lambda: parts(*how))

        return {str(n): partial(timed, n) for n in s.prefixes}

    @functools.cached_property
    def _model(self) -> Llama:
        return computed(lambda: load(self._path))

    @functools.cached_property
    def _judges(self) -> tuple[Llama, Any]:
        return computed(lambda: judges(self._path, self._reward))

    @property
    def _ours(self) -> Ours:
        ours: Ours = self._contender(OURS)
        return ours

    def _made(self, name: str) -> Any:
        """A contender, ready to answer."""
        if name == OURS:
            return Ours(self._model)
        if name == INT8:
            return Ours(computed(lambda: load(self._path, "int8")))
        if name in (STATIC, CONTINUOUS):
            model = computed(lambda: theirs(self._path))
            return Continuous(model) if name == CONTINUOUS else Transformers(model, lambda: self._judges[1])
        s, (_, _, steps, size) = self._sizes, self._sizes.beam
        half = self._path.suffix != ".gguf" or "f16" in name
        file = computed(lambda: halved(self._path, Path(gettempdir()) / f"engine-{name}")) if half else self._path
        return LlamaCpp(file, int(name.split()[-2]), s.prompt + max(s.new, steps * size), torch.get_num_threads())

    def _answers(self, calls: Sequence[Sequence[Ask]], *names: str) -> dict[str, Case]:
        """Calls one after another."""
        return {name: partial(self._answer, name, calls) for name in names}

    def _answer(self, name: str, calls: Sequence[Sequence[Ask]], _: int) -> dict[str, float]:
        return answered(self._contender(name), calls)

    def _house(self, name: str) -> Case:
        """A sample a slot, which know the prompt already: more samples are the same again."""

        def case(_: int) -> dict[str, float]:
            server: LlamaCpp = self._contender(name)
            return answered(server, [[Ask(self._ids, server.slots, self._sizes.new)]])

        return case

    def _halves(self, server: str) -> list[str]:
        """The same server with the weights in half precision, where its file has fewer bits."""
        return [server.replace(",", " f16,")] if self._path.suffix == ".gguf" else []

    def _fastest(self) -> str:
        """llama.cpp with as many slots as were fastest."""
        told: dict[str, Any] = json.loads(self.file("slots").read_text())["rounds"]
        return max(told, key=lambda name: float(told[name][0]["value"]))

    def _decoding(self, branches: int, tail: str) -> dict[str, Case]:
        steps = max(self._sizes.steps, min(32, 64 // branches))
        return {
            f"engine{tail}": lambda _: computed(lambda: decode(self._model, self._ids, branches, steps)),
            f"bare products{tail}": lambda _: computed(lambda: products(self._model, branches, steps)),
        }


def arrivals(sizes: Sizes) -> list[Ask]:
    """Problems of different lengths at random times, each for several samples of random lengths."""
    rng = random.Random(1)
    times = sorted(rng.uniform(0, sizes.span) for _ in range(sizes.problems))
    asks = list[Ask]()
    for i, at in enumerate(times):
        ids = prompt(rng.randint(sizes.longest // 4, sizes.longest), i)
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
