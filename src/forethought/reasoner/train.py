"""Train the embedded models from nothing: `python -m forethought.reasoner.train [generator|reward]`.

Both are small Llamas. The generator learns right solutions of the three generated tasks; the reward model starts from
the generator and learns, from the generator's own drafts, which steps are right so far. About 40 minutes and 15 minutes
on two cores. A killed run goes on where it was.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from forethought.reasoner import examples, vocabulary
from forethought.reasoner.examples import SHARES, Batch, batches, prompt_ids, solved
from forethought.reasoner.loop import Stage, train

TOKENS_PER_BATCH, POOL = 4096, 1024
PROBES = {"chain": (1, 4, 8, 16), "countdown": (1, 2, 3, 4), "procedure": (1, 4, 8, 16)}
TOKENIZER = vocabulary.build()
PAD, EOS = (TOKENIZER.token_to_id(token) for token in (vocabulary.PAD, vocabulary.EOS))


def architecture() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=TOKENIZER.get_vocab_size(),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=TOKENIZER.token_to_id(vocabulary.BOS),
        eos_token_id=EOS,
    )


def token_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    logits = model(input_ids=batch.ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=examples.IGNORED)


def greedy_accuracy(model: torch.nn.Module, problems: int = 48) -> dict[str, float]:
    """Greedy accuracy on problems of the train split (the test split is for the final table only)."""
    assert isinstance(model, LlamaForCausalLM)
    model.eval()
    found = {}
    for task, _ in SHARES:
        for difficulty in PROBES[task.name]:
            asked = [task.problem(difficulty, i, "train") for i in range(problems)]
            prompts = [prompt_ids(p, TOKENIZER) for p in asked]
            width = max(map(len, prompts))
            ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts], device=model.device)
            with torch.inference_mode():
                out = model.generate(ids, attention_mask=(ids != PAD).long(), do_sample=False, max_new_tokens=task.draft_tokens)  # type: ignore[operator]
            texts = TOKENIZER.decode_batch(out[:, width:].tolist(), skip_special_tokens=True)
            answers = [task.answer(text, p) for text, p in zip(texts, asked, strict=True)]
            right = [a is not None and bool(task.correct(a, p)) for a, p in zip(answers, asked, strict=True)]
            found[f"{task.name}/{difficulty}"] = round(sum(right) / problems, 3)
    return found


def generator(steps: int) -> Stage:
    torch.manual_seed(0)

    def stream(rng: random.Random) -> Iterator[Batch]:
        drawn = (solved(rng, TOKENIZER) for _ in repeat(None))
        return batches(drawn, PAD, tokens=TOKENS_PER_BATCH, pool=POOL, rng=rng)

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LlamaForCausalLM(architecture()).to(device)  # type: ignore[arg-type]
    return Stage("generator", model, stream, token_loss, greedy_accuracy, steps, evaluate_every=1000)


def main(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the finished models.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps of the generator.")] = 5000,
) -> None:
    stage = generator(steps)
    train(stage, out / "generator")
    stage.model.to(torch.bfloat16).save_pretrained(out / "generator")  # type: ignore[operator]
    vocabulary.save(out / "generator")


if __name__ == "__main__":
    typer.run(main)
