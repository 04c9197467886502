"""A training loop that can be killed at any moment and goes on from its last checkpoint."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from forethought.reasoner.examples import Batch
from forethought.reasoner.muon import Muon

CHECKPOINT_EVERY, REPORT_EVERY = 100, 50
SLOW = 0.3  # the pace of what has been learned before


@dataclass(frozen=True)
class Stage:
    """What differs between training the generator and the reward model."""

    name: str
    model: torch.nn.Module
    batches: Callable[[random.Random], Iterator[Batch]]
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor]
    evaluate: Callable[[torch.nn.Module], dict[str, float]]
    steps: int
    evaluate_every: int
    muon_lr: float = 0.02
    adam_lr: float = 0.003
    slow: frozenset[torch.nn.Parameter] = frozenset()


def optimizers(model: torch.nn.Module, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices; AdamW for embeddings, heads, norms and biases."""
    hidden: list[torch.nn.Parameter] = []
    other: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (hidden if parameter.ndim == 2 and ".layers." in name else other).append(parameter)
    adam = torch.optim.AdamW(paced(other, stage), lr=stage.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(paced(hidden, stage), lr=stage.muon_lr), adam]


def paced(parameters: list[torch.nn.Parameter], stage: Stage) -> list[dict[str, Any]]:
    """The parameters in groups of equal pace."""
    full = [p for p in parameters if p not in stage.slow]
    slow = [p for p in parameters if p in stage.slow]
    return [{"params": part, "pace": pace} for part, pace in ((full, 1.0), (slow, SLOW)) if part]


def schedule(step: int, steps: int) -> float:
    """A short warm-up and a linear decay to nothing."""
    return min((step + 1) / 50, (steps - step) / steps)


def train(stage: Stage, folder: Path, until: int | None = None) -> None:
    """Run the stage to step `until` (default: its last), writing `checkpoint.pt` and `log.jsonl` under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    model, opts = stage.model, optimizers(stage.model, stage)
    first, elapsed = restore(folder / "checkpoint.pt", model, opts)
    # The stream of examples is seeded by where it starts: a resumed run sees fresh examples, never the same again.
    batches = stage.batches(random.Random(f"{stage.name}/{first}"))
    device = next(model.parameters()).device
    losses: list[float] = []
    end = stage.steps if until is None else until
    started = time.perf_counter() - elapsed
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(), TextColumn("loss {task.fields[loss]:.4f}"))
    with Progress(*columns) as progress:
        bar = progress.add_task(stage.name, total=stage.steps, completed=first, loss=float("nan"))
        for step in range(first, end):
            losses.append(update(stage, model, opts, next(batches), step, device))
            progress.update(bar, completed=step + 1, loss=losses[-1])
            last = step + 1 == end
            if (step + 1) % REPORT_EVERY == 0 or last:
                entry: dict[str, Any] = {"step": step + 1, "loss": round(sum(losses) / len(losses), 5)}
                entry["seconds"] = round(time.perf_counter() - started, 1)
                if (step + 1) % stage.evaluate_every == 0 or last:
                    entry |= stage.evaluate(model)
                progress.console.print(json.dumps(entry))
                with (folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(entry) + "\n")
                losses.clear()
            if (step + 1) % CHECKPOINT_EVERY == 0 or last:
                save(folder / "checkpoint.pt", model, opts, step + 1, time.perf_counter() - started)


def update(
    stage: Stage,
    model: torch.nn.Module,
    opts: list[torch.optim.Optimizer],
    batch: Batch,
    step: int,
    device: torch.device,
) -> float:
    model.train()
    loss = stage.loss(model, Batch(batch.ids.to(device), batch.labels.to(device)))
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for opt, lr in zip(opts, (stage.muon_lr, stage.adam_lr), strict=True):
        for group in opt.param_groups:
            group["lr"] = lr * group["pace"] * schedule(step, stage.steps)
        opt.step()
    model.zero_grad()
    return loss.item()


def restore(path: Path, model: torch.nn.Module, opts: list[torch.optim.Optimizer]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    for opt, saved in zip(opts, state["optimizers"], strict=True):
        opt.load_state_dict(saved)
    return state["step"], state["seconds"]


def save(path: Path, model: torch.nn.Module, opts: list[torch.optim.Optimizer], step: int, seconds: float) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [o.state_dict() for o in opts],
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
