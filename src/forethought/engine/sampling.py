"""Choosing tokens: vectorised over rows, each row with its own parameters and its own random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request samples. Temperature 0 takes the most likely token. `top` alternatives are told at each token."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    top: int | None = None
    stop: tuple[str, ...] = ()
    forced: tuple[int, ...] = ()


def choose(logits: Tensor, how: list[Sampling], uniforms: Tensor) -> Tensor:
    """One token a row by inverse CDF. `logits` [rows, vocabulary], `uniforms` [rows] in [0, 1)."""
    temperatures = torch.tensor([h.temperature for h in how])
    greedy = logits.argmax(-1)
    if not temperatures.any():
        return greedy
    probs = (logits / temperatures.clamp_min(1e-6)[:, None]).softmax(-1)
    if any(h.min_p > 0 for h in how):
        floor = torch.tensor([min(h.min_p, 1.0) for h in how])[:, None] * probs.amax(-1, keepdim=True)
        probs = probs.masked_fill(probs < floor, 0.0)
    if any(h.top_p < 1 for h in how):
        probs = nucleus(probs, torch.tensor([h.top_p for h in how]))
    edges = probs.double().cumsum(-1)
    points = uniforms[:, None] * edges[:, -1:]
    drawn = torch.searchsorted(edges, points, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
    return torch.where(temperatures == 0, greedy, drawn)


def nucleus(probs: Tensor, top_p: Tensor) -> Tensor:
    """Keep the fewest tokens whose mass reaches top_p, at least one (Holtzman et al. 2019, arXiv:1904.09751)."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = ordered.masked_fill(before >= (top_p[:, None] * probs.sum(-1, keepdim=True)).clamp_min(1e-12), 0.0)
    return torch.zeros_like(probs).scatter(-1, order, kept)
