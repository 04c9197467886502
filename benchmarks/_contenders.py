"""Who is compared in `engine.py`: each draws texts from the same weights, and says how many tokens it wrote."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import torch

from forethought.engine.engine import Engine
from forethought.engine.llama import Llama
from forethought.engine.sampling import Sampling
from forethought.engine.weights import build, load

TEMPERATURE = 0.8
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Ask:
    """`samples` texts of `new` tokens after a prompt, asked for `at` seconds after the start."""

    ids: Ids
    samples: int
    new: int
    at: float = 0.0


def one_each(asks: Sequence[Ask]) -> list[Ask]:
    return [replace(ask, samples=1) for ask in asks for _ in range(ask.samples)]


class Ours:
    """This engine, a new one for each run: nothing is known from the run before."""

    def __init__(self, model: Llama, judge: Llama, rows: int = 64, name: str = "forethought") -> None:
        self.name = name
        self.model, self._judge, self._rows = replace(model, eos=frozenset()), judge, rows

    def engine(self) -> Engine:
        return Engine(self.model, lambda row: False, rows=self._rows)

    def answer(self, asks: Sequence[Ask]) -> int:
        engine = self.engine()
        anyio.run(self._answer, engine, asks)
        return sum(ask.samples * ask.new for ask in asks)

    async def _answer(self, engine: Engine, asks: Sequence[Ask]) -> None:
        start = time.perf_counter()

        async def one(ask: Ask, seed: int) -> None:
            await anyio.sleep(max(0.0, ask.at - (time.perf_counter() - start)))
            await engine.generate(ask.ids, Sampling(ask.new, TEMPERATURE), seed)

        async with anyio.create_task_group() as tasks:
            for seed, ask in enumerate(one_each(asks)):
                tasks.start_soon(one, ask, seed)

    def beam(self, ids: Ids, width: int, expand: int, steps: int, size: int) -> int:
        return anyio.run(self._beam, ids, width, expand, steps, size)

    async def _beam(self, ids: Ids, width: int, expand: int, steps: int, size: int) -> int:
        engine, judge = self.engine(), Engine(self._judge, lambda row: False)
        texts, graded = [ids] * width, list[tuple[float, Ids]]()

        async def one(text: Ids, seed: int) -> None:
            row = await engine.generate(text, Sampling(size, TEMPERATURE), seed)
            whole = (*text, *row.tokens)
            graded.append(((await judge.score(whole)).outputs[-1], whole))

        for step in range(steps):
            graded.clear()
            async with anyio.create_task_group() as tasks:
                for i, text in enumerate(text for text in texts for _ in range(expand)):
                    tasks.start_soon(one, text, step * 1000 + i)
            texts = [text for _, text in sorted(graded, reverse=True)[:width]]
        return width * expand * steps * size


class Transformers:
    """`transformers.generate`: samples of one prompt as `num_return_sequences`, different prompts as a padded batch."""

    name = "transformers.generate"

    def __init__(self, model: Any, judge: Any) -> None:
        self._model, self._judge = model, judge

    def _generate(self, texts: Sequence[Ids], new: int, samples: int = 1) -> torch.Tensor:
        length = max(map(len, texts))
        padded = torch.tensor([[*[0] * (length - len(text)), *text] for text in texts])
        mask = torch.tensor([[*[0] * (length - len(text)), *[1] * len(text)] for text in texts])
        how: dict[str, Any] = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "eos_token_id": -1}
        with torch.inference_mode():
            done: torch.Tensor = self._model.generate(
                padded, attention_mask=mask, max_new_tokens=new, num_return_sequences=samples, pad_token_id=0, **how
            )
        return done[:, length:]

    def answer(self, asks: Sequence[Ask]) -> int:
        """Static batching: whoever has come when the machine is free is one batch of up to 64, as long as its longest."""
        waiting = one_each(asks)
        if len(asks) == 1:
            self._generate([asks[0].ids], asks[0].new, asks[0].samples)
            return asks[0].samples * asks[0].new
        start = time.perf_counter()
        while waiting:
            now = time.perf_counter() - start
            if waiting[0].at > now:
                time.sleep(waiting[0].at - now)
            batch = [ask for ask in waiting[:64] if ask.at <= time.perf_counter() - start]
            self._generate([ask.ids for ask in batch], max(ask.new for ask in batch))
            del waiting[: len(batch)]
        return sum(ask.samples * ask.new for ask in asks)

    def beam(self, ids: Ids, width: int, expand: int, steps: int, size: int) -> int:
        texts = [ids] * width
        for _ in range(steps):
            wide = [text for text in texts for _ in range(expand)]
            new = self._generate(wide, size).tolist()
            wide = [(*text, *more) for text, more in zip(wide, new, strict=True)]
            with torch.inference_mode():
                grades = self._judge(torch.tensor(wide)).logits[:, -1].softmax(-1)[:, 1].tolist()
            texts = [text for _, text in sorted(zip(grades, wide, strict=True), reverse=True)[:width]]
        return width * expand * steps * size


class Continuous:
    """Transformers' continuous batching."""

    name = "transformers continuous"

    def __init__(self, model: Any) -> None:
        self._model = model

    def answer(self, asks: Sequence[Ask]) -> int:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        (ask,) = asks
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
        return sum(len(output.generated_tokens) for output in done.values())


class LlamaCpp:
    """llama.cpp's server in this process, `parallel` slots over one cache of keys and values."""

    def __init__(self, gguf: Path, parallel: int, context: int, threads: int) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_parallel, params.kv_unified, params.n_ctx, params.port = parallel, True, context, 0
        params.warmup, params.verbosity = False, -1
        for pool in (params.cpuparams, params.cpuparams_batch):
            pool.n_threads = threads
        self._server, self.name, self._parallel = xllamacpp.Server(params), f"llama.cpp, {parallel} slots", parallel

    def answer(self, asks: Sequence[Ask]) -> int:
        (ask,) = asks
        body = {"prompt": list(ask.ids), "n_predict": ask.new, "temperature": TEMPERATURE, "ignore_eos": True}
        body |= {"cache_prompt": True, "top_k": 0, "top_p": 1.0, "min_p": 0.0}

        def one(seed: int) -> int:
            done: Any = self._server.handle_completions(body | {"seed": seed})
            return int(done["usage"]["completion_tokens"])

        with ThreadPoolExecutor(self._parallel) as pool:
            return sum(pool.map(one, range(ask.samples)))


def weights(path: Path, reward: Path | None) -> tuple[Llama, Llama, Any, Any]:
    """The same weights as our generator and judge and as transformers' models. Without a reward model the judge is the
    generator with a random head of two labels.
    """
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification

    theirs = _theirs(path)
    if reward is not None:
        judge = LlamaForTokenClassification.from_pretrained(reward, dtype=torch.float32).eval()
        return load(path), load(reward), theirs, judge
    torch.manual_seed(0)
    judge = LlamaForTokenClassification(LlamaConfig(**theirs.config.to_dict() | {"num_labels": 2})).eval()
    judge.model.load_state_dict(theirs.model.state_dict())
    assert isinstance(theirs, LlamaForCausalLM)
    return load(path), build(judge.config.to_dict(), judge.state_dict()), theirs, judge


def _theirs(path: Path) -> Any:
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    if path.suffix != ".gguf":
        return LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model = LlamaForCausalLM(AutoConfig.from_pretrained(path.parent, gguf_file=path.name)).eval()
    reader: Any = load_gguf_checkpoint
    model.load_state_dict(reader(str(path), return_tensors=True, model_to_load=model)["tensors"], strict=False)
    model.tie_weights()
    return model


def prompt(model: Llama, length: int, seed: int) -> Ids:
    """Random tokens: what they say does not matter for speed."""
    rng = random.Random(seed)
    return tuple(rng.randrange(10, model.vocabulary) for _ in range(length))
