"""Train the embedded models from nothing: `python -m forethought.reasoner.train --out FOLDER`.

Both are small Llamas. The generator learns right solutions of the generated tasks. The reward model starts from the
generator, with two layers on top, and learns from the generator's own drafts which steps are right so far. Half an
hour each on two cores at most. A killed run goes on where it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, PreTrainedModel

from forethought.bench.stats import area_under_curve
from forethought.reasoner import vocabulary
from forethought.reasoner.drafts import REPLACED, RIGHT, WRONG, Asked, collect, mixed, sample
from forethought.reasoner.examples import IGNORED, TASKS, Batch, Example, batches, solved
from forethought.reasoner.loop import Stage, train

REWARD_LAYERS = 6  # the generator's layers predict a token; those on top compare it with the one that came
LATE_FROM = 0.5  # the share of the steps after which countdown is drawn most
TOKENS_PER_BATCH, POOL = 4096, 1024
FAST, CLEAR = 5, 8.0  # pairs of rotary positions; how many logits the position before is above its neighbours
WRITTEN = 3.0  # makes what is read there about half as large as the stream that it is written to
PROBES = {"chain": (1, 4, 8, 12), "chain-checked": (4, 12), "countdown": (1, 2, 4), "procedure": (1, 4, 8, 12)}
TOKENIZER = vocabulary.build()
PAD, BOS, EOS = (TOKENIZER.get_vocab()[t] for t in (vocabulary.PAD, vocabulary.BOS, vocabulary.EOS))
BREAK = TOKENIZER.token_to_id("\n")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def architecture(layers: int = 4, *, biased: bool = False) -> LlamaConfig:
    """One million parameters with four layers, one and a half with six."""
    return LlamaConfig(
        vocab_size=TOKENIZER.get_vocab_size(),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=biased,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        num_labels=2,  # type: ignore[call-arg]
    )


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over the labelled positions; nothing where none is."""
    total = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (labels != IGNORED).sum().clamp(min=1)


def token_loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return cross_entropy(model(input_ids=batch.ids, use_cache=False).logits, batch.labels)


def verdict_loss(trained: LlamaForCausalLM) -> Callable[[torch.nn.Module, Batch], torch.Tensor]:
    """Of the verdicts; of the next token of right steps where the generator ends; of each token's own one, one layer above.

    The second keeps what should come next in sight of the layers above. The third teaches them to compare it with what
    came: the first wrong token of a draft is too little to learn that from.
    """
    height = trained.config.num_hidden_layers
    trained.requires_grad_(False)

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        out = model.model(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
        foretold = trained.lm_head(trained.model.norm(out.hidden_states[height][:, :-1]))
        following = torch.where(batch.labels == RIGHT, batch.ids, IGNORED)[:, 1:]
        seen = out.hidden_states[height + 1]
        proof = model.proof(torch.nn.functional.rms_norm(seen, seen.shape[-1:]))
        return (
            cross_entropy(model.score(out.last_hidden_state), either(batch.labels, WRONG))
            + cross_entropy(foretold, following)
            + cross_entropy(proof, proofread(trained, batch))
        )

    return loss


@torch.no_grad()
def proofread(trained: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Of each token, 1 if it is the own one: as labelled, or in a draft the one that the generator holds most likely."""
    likeliest = trained(input_ids=batch.ids, use_cache=False).logits[:, :-1].argmax(-1)
    own = torch.nn.functional.pad((likeliest == batch.ids[:, 1:]).long(), (1, 0))
    drafted = (batch.labels == WRONG) | (batch.labels == RIGHT)
    return torch.where(drafted, own, either(batch.labels, REPLACED))


def either(labels: torch.Tensor, first: int) -> torch.Tensor:
    """The labels `first` and the next as 0 and 1, all others ignored."""
    return torch.where((labels == first) | (labels == first + 1), labels - first, IGNORED)


def batched(examples: Callable[[random.Random], Iterator[Example]]) -> Callable[[random.Random], Iterator[Batch]]:
    return lambda rng: batches(examples(rng), PAD, tokens=TOKENS_PER_BATCH, pool=POOL, rng=rng)


def greedy_accuracy(model: torch.nn.Module, problems: int = 40) -> dict[str, float]:
    """Greedy accuracy on problems of the train split (the test split is for the final table only)."""
    model.eval()
    found = {}
    for task in TASKS:
        for difficulty in PROBES[task.name]:
            asked: list[Asked] = [(task, task.problem(difficulty, i, "train")) for i in range(problems)]
            texts = TOKENIZER.decode_batch(sample(model, asked, TOKENIZER, None))
            answers = [task.answer(text, p) for text, (_, p) in zip(texts, asked, strict=True)]
            right = [a is not None and bool(task.correct(a, p)) for a, (_, p) in zip(answers, asked, strict=True)]
            found[f"{task.name}/{difficulty}"] = round(sum(right) / problems, 3)
    return found


def step_auc(held_out: list[Example]) -> Callable[[torch.nn.Module], dict[str, float]]:
    """The area under the curve at the ends of steps, by task: pooled, and the mean within one step number.

    The first alone flatters: how far a draft has come tells much of whether it is still right.
    """

    def measure(model: torch.nn.Module) -> dict[str, float]:
        found = {}
        for task in TASKS:
            mine = [e for e in held_out if TOKENIZER.decode(e.ids[1:2]).strip() == task.name]
            steps = [step for example in mine for step in step_scores(model, example)]
            by_number = [[step for step in steps if step[0] == n] for n in {n for n, _, _ in steps}]
            found[task.name] = area_of(steps)
            found[f"{task.name} within"] = float(torch.tensor([area_of(same) for same in by_number]).nanmean())
        return {name: round(area, 4) for name, area in found.items()}

    return measure


@torch.inference_mode()
def step_scores(model: torch.nn.Module, example: Example) -> list[tuple[int, bool, float]]:
    """The number of each step of a labelled draft, whether it is right so far, and its score."""
    logits = model.eval()(input_ids=torch.tensor([example.ids], device=DEVICE)).logits[0].cpu()
    ends = [i for i, label in enumerate(example.labels) if label != IGNORED and example.ids[i] in (BREAK, EOS)]
    return [(n, example.labels[i] == 1, float(logits[i, 1] - logits[i, 0])) for n, i in enumerate(ends)]


def area_of(steps: list[tuple[int, bool, float]]) -> float:
    return area_under_curve([right for _, right, _ in steps], [score for _, _, score in steps])


def generator(steps: int, *, late: bool) -> Stage:
    torch.manual_seed(0)
    model = LlamaForCausalLM(architecture()).to(DEVICE)  # type: ignore[arg-type]
    # A token's own identity stays visible beside what the layers add, and the logits begin small all the same.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.3)
    torch.nn.init.constant_(model.model.norm.weight, 0.3)
    stream = batched(lambda rng: (solved(rng, TOKENIZER, late=late) for _ in repeat(None)))
    return Stage("generator", model, stream, token_loss, greedy_accuracy, steps, evaluate_every=500)


@torch.no_grad()
def look_back(attention: Any) -> None:
    """Half of the heads begin by reading the position before, where the token that came was foretold.

    Left to themselves they hardly ever find out: looking back gains nothing before the two are compared, and there is
    nothing to compare before one looks back. Rotary positions turn a query and a key that are constant into a score of
    the distance alone, and the fast pairs make it sharp.
    """
    config = attention.config
    size, pairs = config.head_dim, config.head_dim // 2
    speed = config.rope_parameters["rope_theta"] ** (-torch.arange(FAST, device=DEVICE) / pairs)
    gain = (CLEAR * size**0.5 / (1 - speed.cos()).sum()) ** 0.5
    for group in range(config.num_key_value_heads):
        query = attention.q_proj.bias[group * config.num_attention_heads // config.num_key_value_heads * size :]
        attention.k_proj.bias[group * size :][:FAST] = gain
        query[:FAST], query[pairs:][:FAST] = gain * speed.cos(), -gain * speed.sin()
    torch.nn.init.orthogonal_(attention.v_proj.weight)
    torch.nn.init.orthogonal_(attention.o_proj.weight, gain=WRITTEN)


def reward(steps: int, trained: LlamaForCausalLM, drafts: Path, count: int) -> Stage:
    examples = collect(trained, TOKENIZER, drafts, count)
    random.Random(0).shuffle(examples)  # they were drawn in batches of similar length
    held_out, rest = examples[:500], examples[500:]
    height = trained.config.num_hidden_layers
    with torch.device(DEVICE):
        model = LlamaForTokenClassification(architecture(REWARD_LAYERS, biased=True))  # type: ignore[no-untyped-call]
        model.proof = torch.nn.Linear(model.config.hidden_size, 2)  # for training alone
    model.model.load_state_dict(trained.model.state_dict(), strict=False)
    for layer in model.model.layers[height:]:  # begin as the identity
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    look_back(model.model.layers[height].self_attn)
    slow = frozenset([*model.model.embed_tokens.parameters(), *model.model.layers[:height].parameters()])
    stream = batched(lambda rng: mixed(rest, TOKENIZER, rng))
    return Stage("reward", model, stream, verdict_loss(trained), step_auc(held_out), steps, 200, 0.01, 0.001, slow)


def finish(model: torch.nn.Module, folder: Path) -> None:
    """Store a trained model in 16 bits, as a folder that any engine can read."""
    assert isinstance(model, PreTrainedModel)
    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    vocabulary.save(folder)


def main(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and the finished models.")],
    only: Annotated[Literal["generator", "reward"] | None, typer.Option(help="Train one of the two.")] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps of the generator.")] = 1800,
    reward_steps: Annotated[int, typer.Option(help="Optimizer steps of the reward model.")] = 1600,
    drafts: Annotated[int, typer.Option(help="Drafts that the reward model learns from.")] = 9000,
) -> None:
    if only != "reward":
        train(generator(steps, late=False), out / "generator", until=int(LATE_FROM * steps))
        stage = generator(steps, late=True)
        train(stage, out / "generator")
        finish(stage.model, out / "generator")
    if only != "generator":
        trained = LlamaForCausalLM.from_pretrained(out / "generator", dtype=torch.float32).to(DEVICE)  # type: ignore[arg-type]
        stage = reward(reward_steps, trained, out / "drafts.jsonl", drafts)
        train(stage, out / "reward")
        del stage.model.proof
        finish(stage.model, out / "reward")


if __name__ == "__main__":
    typer.run(main)
