"""Choosing tokens: vectorised over rows, each row with its own parameters and its own random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from forethought.core.errors import UsageError

BLOCK = 64  # an inverse CDF looks for the block first and then inside it
LARGE = 1e20  # logits that are changed by more may leave fp32 where the temperature is low
WHOLE = ("max_tokens", "min_tokens", "top_k", "top")
LEAST = {"temperature": 0.0, "top_p": 0.0, "min_p": 0.0, "repetition": 1e-6, "presence": -LARGE, "frequency": -LARGE}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request samples. Temperature 0 takes the most likely token. `top` alternatives are told at each token.

    The order of the controls is that of transformers: penalties, bans, temperature, `top_k`, `top_p`, `min_p`.
    `repetition` divides positive logits of tokens seen in prompt or draft and multiplies negative ones (Keskar et al.
    2019, arXiv:1909.05858); `presence` and `frequency` are subtracted once and a time for tokens that this request drew, not
    for those of a draft that it goes on from. `banned` tokens never come; no end comes before `min_tokens`. `forced` tokens
    are taken whatever they are.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.0
    top: int | None = None
    stop: tuple[str, ...] = ()
    forced: tuple[int, ...] = ()
    top_k: int = 0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    banned: tuple[int, ...] = ()
    min_tokens: int = 0

    @property
    def penalises(self) -> bool:
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0

    def check(self) -> None:
        """Raise UsageError for what makes no sense with any model."""
        for name in WHOLE:
            value = getattr(self, name) or 0
            if not isinstance(value, int) or value < 0:
                raise UsageError(f"{name} must be a whole number of at least 0, not {value}")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not least <= value <= LARGE:
                raise UsageError(f"{name} must be a number from {least:g} to {LARGE:g}, not {value}")
        if not all(self.stop):
            raise UsageError("a stop string cannot be empty")


class Columns:
    """The parameters of a batch of rows as columns. `None` stands for a control that no row asks for."""

    def __init__(self, how: Sequence[Sampling], device: torch.device | None = None) -> None:
        def column(values: list[float], neutral: float) -> Tensor | None:
            if all(value == neutral for value in values):
                return None
            return torch.tensor(values, device=device)[:, None]

        temperatures = [h.temperature for h in how]
        self.greedy = torch.tensor([t == 0 for t in temperatures], device=device)
        self.all_greedy, self.any_greedy = not any(temperatures), not all(temperatures)
        self.temperature = column([max(t, 1e-6) if t else 1.0 for t in temperatures], 1.0)
        self.top_p = column([h.top_p for h in how], 1.0)
        self.top_k = column([float(h.top_k) for h in how], 0.0)
        self.min_p = column([min(h.min_p, 1.0) for h in how], 0.0)


def choose(logits: Tensor, columns: Columns, uniforms: Tensor) -> Tensor:
    """One token a row by inverse CDF. `logits` [rows, vocabulary], `uniforms` [rows] in [0, 1), double."""
    if columns.all_greedy:
        return logits.argmax(-1)
    scaled = logits if columns.temperature is None else logits / columns.temperature
    probs = scaled.softmax(-1)
    if columns.top_k is not None or columns.top_p is not None:
        probs = _nucleus(probs, columns.top_k, columns.top_p)
    if columns.min_p is not None:
        probs = probs.masked_fill(probs < columns.min_p * probs.amax(-1, keepdim=True), 0.0)
    drawn = _inverse(probs, uniforms)
    return torch.where(columns.greedy, logits.argmax(-1), drawn) if columns.any_greedy else drawn


def _inverse(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The token whose part of the cumulative sum a uniform number falls into: its block first, then its place in it."""
    rows, size = probs.shape
    if size <= 4 * BLOCK:
        return _place(*_edges(probs, uniforms)).squeeze(1)
    whole = F.pad(probs, (0, -size % BLOCK)) if size % BLOCK else probs
    blocks = whole.view(rows, -1, BLOCK)
    weights = blocks.sum(-1)
    edges, points = _edges(weights, uniforms)
    block = _place(edges, points)
    inside = blocks[torch.arange(rows, device=probs.device), block.squeeze(1)]
    place = _place(*_edges(inside, _within(block, weights, edges, points)))
    return (block * BLOCK + place).squeeze(1).clamp_max(size - 1)


def _edges(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The cumulative weights, and the points [rows, 1] among them at which the uniforms fall."""
    edges = weights.double().cumsum(-1)
    return edges, uniforms[:, None] * edges[:, -1:]


def _place(edges: Tensor, points: Tensor) -> Tensor:
    """Between which edges the points fall, never on a weight of zero: [rows, 1]."""
    found = torch.searchsorted(edges, points, right=True)
    last = torch.searchsorted(
        edges, edges[:, -1:].contiguous()
    )  # the first to reach the whole: what is behind has no weight
    return torch.minimum(found, last).clamp_max(edges.shape[1] - 1)  # which only NaN reaches


def _within(found: Tensor, weights: Tensor, edges: Tensor, points: Tensor) -> Tensor:
    """Where within the weights that were found the points fall: [rows] in [0, 1)."""
    width = weights.gather(1, found).double()
    within = (points - (edges.gather(1, found) - width)) / width
    return within.clamp(0.0, 1.0 - 2**-40).squeeze(1)


def _nucleus(probs: Tensor, top_k: Tensor | None, top_p: Tensor | None) -> Tensor:
    """Keep the `top_k` likeliest tokens, and of these the fewest whose mass reaches top_p of theirs, at least one (Fan et al.
    2018, arXiv:1805.04833; Holtzman et al. 2019, arXiv:1904.09751).
    """
    free = _free(probs, top_k, top_p)
    ordered, order = _likeliest(probs, top_k, top_p, free)
    if top_k is not None:
        ranks = torch.arange(ordered.shape[1], device=probs.device)
        ordered = ordered.masked_fill((ranks >= top_k) & (top_k > 0), 0.0)
    if top_p is not None:
        # without top_k the whole mass is 1, also where only the likeliest tokens have been sorted
        mass = probs.sum(-1, keepdim=True) if top_k is None else ordered.sum(-1, keepdim=True)
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill((before >= (top_p * mass).clamp_min(1e-12)) & (top_p < 1), 0.0)
    return torch.where(free, probs, torch.zeros_like(probs).scatter(-1, order, ordered))


def _free(probs: Tensor, top_k: Tensor | None, top_p: Tensor | None) -> Tensor:
    """The rows [rows, 1] that keep all tokens: neighbours of those that do not."""
    free = torch.ones(len(probs), 1, dtype=torch.bool, device=probs.device)
    if top_k is not None:
        free &= top_k == 0
    if top_p is not None:
        free &= top_p >= 1
    return free


def _likeliest(probs: Tensor, top_k: Tensor | None, top_p: Tensor | None, free: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest tokens in order: a few where these hold all that the rows that are not `free` can keep, else all."""
    few = 128
    if probs.shape[1] > 8 * few:
        ordered, order = probs.topk(few)
        enough = free.clone()
        if top_k is not None:
            enough |= (top_k > 0) & (top_k <= few)
        if top_p is not None and top_k is None:
            enough |= ordered.sum(-1, keepdim=True) >= top_p
        if enough.all():
            return ordered, order
    return probs.sort(dim=-1, descending=True, stable=True)
