"""Who is compared in `engine.py`: each draws texts from the same weights, and says how many tokens it wrote.

All that torch computes for any of them runs in the one thread in which the engine computes, so that none suffers from another's
OpenMP team; transformers' continuous batching alone insists on a thread of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import torch

from forethought.core.together import together
from forethought.engine.compute import computed
from forethought.engine.engine import Engine, Scored
from forethought.engine.llama import Llama
from forethought.engine.placement import best
from forethought.engine.rows import Row
from forethought.engine.sampling import Sampling
from forethought.engine.weights import build, fitted, load

TEMPERATURE = 0.8
Ids = tuple[int, ...]
Write = Callable[[Sequence[Ids], int, int], list[Ids]]  # texts, new tokens and a seed to longer texts
Grade = Callable[[Sequence[Ids]], list[float]]


@dataclass(frozen=True)
class Ask:
    """`samples` texts of `new` tokens after a prompt, asked for `at` seconds after the start."""

    ids: Ids
    samples: int
    new: int
    at: float = 0.0


class Waited:
    """Seconds from when texts were asked for to when they were there."""

    def __init__(self) -> None:
        self.seconds, self._start = list[float](), time.perf_counter()

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def done(self, ask: Ask) -> None:
        self.seconds.append(self.now() - ask.at)


def one_each(asks: Sequence[Ask]) -> list[Ask]:
    return [replace(ask, samples=1) for ask in asks for _ in range(ask.samples)]


class Ours:
    """This engine, a new one for each run: nothing is known from the run before."""

    def __init__(self, model: Llama, rows: int = 64) -> None:
        self.model, self._rows = replace(model, eos=frozenset()), rows

    def engine(self) -> Engine:
        return Engine(self.model, lambda row: False, rows=self._rows)

    def answer(self, asks: Sequence[Ask]) -> list[float]:
        waited = Waited()
        anyio.run(self._answer, self.engine(), asks, waited)
        return waited.seconds

    async def _answer(self, engine: Engine, asks: Sequence[Ask], waited: Waited) -> None:
        async def one(ask: Ask, seed: int) -> None:
            await anyio.sleep(max(0.0, ask.at - waited.now()))
            await engine.generate(ask.ids, Sampling(ask.new, TEMPERATURE), seed)
            waited.done(ask)

        async with anyio.create_task_group() as tasks:
            for seed, ask in enumerate(one_each(asks)):
                tasks.start_soon(one, ask, seed)

    def extend(self, engine: Engine, texts: Sequence[Ids], new: int, seed: int) -> list[Ids]:
        """The texts, each with so many tokens more."""
        how = Sampling(new, TEMPERATURE)

        async def run() -> list[Row]:
            return await together([partial(engine.generate, text, how, seed + i) for i, text in enumerate(texts)])

        return [(*text, *row.tokens) for text, row in zip(texts, anyio.run(run), strict=True)]


class Judge:
    """Our reward model over one search: what it has read it keeps."""

    def __init__(self, model: Llama) -> None:
        self._engine = Engine(model, lambda row: False)

    def __call__(self, drafts: Sequence[Ids]) -> list[float]:
        async def run() -> list[Scored]:
            return await together([partial(self._engine.score, draft) for draft in drafts])

        return [scored.outputs[-1] for scored in anyio.run(run)]


class Transformers:
    """`transformers.generate`: samples of one prompt as `num_return_sequences`, different prompts as a padded batch."""

    def __init__(self, model: Any, judge: Callable[[], Any]) -> None:
        self._model, self._judge = model, judge

    def _generate(self, texts: Sequence[Ids], new: int, samples: int = 1) -> torch.Tensor:
        return computed(lambda: self._written(texts, new, samples))

    @torch.inference_mode()
    def _written(self, texts: Sequence[Ids], new: int, samples: int) -> torch.Tensor:
        length = max(map(len, texts))
        padded = torch.tensor([[*[0] * (length - len(text)), *text] for text in texts])
        mask = torch.tensor([[*[0] * (length - len(text)), *[1] * len(text)] for text in texts])
        how: dict[str, Any] = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "eos_token_id": -1}
        done: torch.Tensor = self._model.generate(
            padded, attention_mask=mask, max_new_tokens=new, num_return_sequences=samples, pad_token_id=0, **how
        )
        return done[:, length:]

    def answer(self, asks: Sequence[Ask]) -> list[float]:
        """Static batching: whoever has come when the machine is free is one batch of up to 64, as long as its longest."""
        waiting, waited = one_each(asks), Waited()
        if len(asks) == 1:
            self._generate([asks[0].ids], asks[0].new, asks[0].samples)
            return [waited.now()] * asks[0].samples
        while waiting:
            time.sleep(max(0.0, waiting[0].at - waited.now()))
            batch = [ask for ask in waiting[:64] if ask.at <= waited.now()]
            self._generate([ask.ids for ask in batch], max(ask.new for ask in batch))
            for ask in batch:
                waited.done(ask)
            del waiting[: len(batch)]
        return waited.seconds

    def extend(self, texts: Sequence[Ids], new: int, seed: int) -> list[Ids]:
        """The texts, all of one length, each with so many tokens more."""
        return [(*text, *more) for text, more in zip(texts, self._generate(texts, new).tolist(), strict=True)]

    def grades(self, drafts: Sequence[Ids]) -> list[float]:
        return computed(lambda: self._graded(drafts))

    @torch.inference_mode()
    def _graded(self, drafts: Sequence[Ids]) -> list[float]:
        found: list[float] = self._judge()(torch.tensor(drafts)).logits[:, -1].float().softmax(-1)[:, 1].tolist()
        return found


class Continuous:
    """Transformers' continuous batching."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def answer(self, asks: Sequence[Ask]) -> list[float]:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        (ask,), waited = asks, Waited()
        how = GenerationConfig(
            max_new_tokens=ask.new, do_sample=True, temperature=TEMPERATURE, top_k=0, eos_token_id=-1, pad_token_id=0
        )
        blocks = ask.samples * (-(-(len(ask.ids) + ask.new) // 256) + 1) + 8
        batching = ContinuousBatchingConfig(num_blocks=blocks, page_size=256)
        done = self._model.generate_batch(
            [list(ask.ids)] * ask.samples,
            generation_config=how,
            continuous_batching_config=batching,
            progress_bar=False,
        )
        assert all(len(output.generated_tokens) == ask.new for output in done.values())
        return [waited.now()] * len(done)


class Search:
    """Beam search: `begin` gives for a new search who writes the drafts and who grades them. A round is one of `slices` equal
    parts of the steps, so that so many rounds in order are one whole search.
    """

    def __init__(self, begin: Callable[[], tuple[Write, Grade]], ids: Ids, sizes: Sequence[int], slices: int) -> None:
        self._begin, self._ids, self._slices = begin, ids, slices
        self._width, self._expand, self._steps, self._size = sizes
        self._next = -1

    def __call__(self, turn: int) -> int:
        steps = self._steps // self._slices
        first = turn % self._slices * steps
        if not first or first != self._next:
            self._start(first)
        for step in range(first, first + steps):
            wide = [text for text in self._texts for _ in range(self._expand)]
            drafts = self._write(wide, self._size, step * 1000)
            graded = zip(self._grade(drafts), drafts, strict=True)
            self._texts = [text for _, text in sorted(graded, reverse=True)[: self._width]]
        self._next = first + steps
        return self._width * self._expand * steps * self._size

    def _start(self, step: int) -> None:
        """At this step: a run that was cut goes on from texts of the same length, which cost the same."""
        self._write, self._grade = self._begin()
        new = step * self._size
        known = self._ids * (1 + self._width + new)
        self._texts = [(*self._ids, *known[i : i + new]) for i in range(self._width)]


def theirs(path: Path) -> Any:
    """Transformers' model of these weights, in the type in which ours computes."""
    model = read(path)
    return model.to(best(model.num_parameters()).dtype)


def judges(path: Path, reward: Path | None) -> tuple[Llama, Any]:
    """Our reward model and transformers', of the same weights. Where there is none it is the generator with a random head of
    two labels.
    """
    from transformers import LlamaConfig, LlamaForTokenClassification

    if reward is not None:
        return load(reward), LlamaForTokenClassification.from_pretrained(reward, dtype=torch.float32).eval()
    generator = read(path)
    torch.manual_seed(0)
    judge = LlamaForTokenClassification(LlamaConfig(**generator.config.to_dict() | {"num_labels": 2})).eval()
    judge.model.load_state_dict(generator.model.state_dict())
    ours = fitted(build(judge.config.to_dict(), judge.state_dict()))
    return ours, judge.to(ours.dtype)


def read(path: Path) -> Any:
    """Transformers' model of a folder or of a GGUF file, in fp32."""
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    if path.suffix != ".gguf":
        return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model = LlamaForCausalLM(AutoConfig.from_pretrained(path.parent, gguf_file=path.name)).eval()
    reader: Any = load_gguf_checkpoint
    model.load_state_dict(reader(str(path), return_tensors=True, model_to_load=model)["tensors"], strict=False)
    model.tie_weights()
    return model


def prompt(length: int, seed: int) -> Ids:
    """Random tokens that every model has: what they say does not matter for speed."""
    rng = random.Random(seed)
    return tuple(rng.randrange(10, 60) for _ in range(length))
