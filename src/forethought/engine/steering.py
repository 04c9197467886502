"""What bends the logits of a batch before its tokens are drawn: penalties, bans, and ends that would come too early."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from forethought.engine.rows import Row


class Penalties:
    """The repetition controls of those rows that ask for them, with what each has seen and how often it wrote what."""

    def __init__(self, rows: Sequence[Row], vocabulary: int, device: torch.device) -> None:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None]

        asking = [i for i, row in enumerate(rows) if row.how.penalises]
        hows = [rows[i].how for i in asking]
        self.rows = torch.tensor(asking, device=device)
        self.repetition = column([how.repetition for how in hows])
        self.presence = column([how.presence for how in hows])
        self.frequency = column([how.frequency for how in hows])
        self.times = torch.stack([_times(rows[i].tokens, vocabulary) for i in asking]).to(device)
        self.seen = torch.stack([_times(rows[i].ids, vocabulary) for i in asking]).to(device) + self.times > 0

    def apply(self, logits: Tensor) -> None:
        """In place."""
        these = logits[self.rows]
        repeated = torch.where(these > 0, these / self.repetition, these * self.repetition)
        these = torch.where(self.seen, repeated, these)
        logits[self.rows] = these - (self.presence * (self.times > 0) + self.frequency * self.times)

    def took(self, tokens: Tensor) -> None:
        new = tokens[self.rows, None]
        self.seen.scatter_(1, new, True)
        self.times.scatter_add_(1, new, torch.ones_like(new, dtype=self.times.dtype))


class Steering:
    """The penalties and bans of a batch of rows, kept from step to step while the rows stay. `None` stands for what no row
    asks for.
    """

    def __init__(self, rows: Sequence[Row], vocabulary: int, ends: frozenset[int], device: torch.device) -> None:
        self._penalties = Penalties(rows, vocabulary, device) if any(row.how.penalises for row in rows) else None
        barred = [(i, token) for i, row in enumerate(rows) for token in row.how.banned]
        self._barred = torch.tensor(barred, device=device).unbind(1) if barred else None
        early = [max(0, row.how.min_tokens - len(row.tokens)) for row in rows]  # tokens before an end may come
        self._early = torch.tensor(early, device=device)[:, None] if any(early) and ends else None
        self._ends = torch.tensor(sorted(ends), device=device)

    @property
    def asked(self) -> bool:
        return any(part is not None for part in (self._penalties, self._barred, self._early))

    def penalise(self, logits: Tensor) -> None:
        """In place."""
        if self._penalties is not None:
            self._penalties.apply(logits)

    def bar(self, logits: Tensor) -> None:
        """In place."""
        if self._barred is not None:
            logits[self._barred] = -torch.inf
        if self._early is not None:
            logits[:, self._ends] = logits[:, self._ends].masked_fill(self._early > 0, -torch.inf)

    def took(self, tokens: Tensor) -> None:
        """Follow what the rows have written: one token each."""
        if self._penalties is not None:
            self._penalties.took(tokens)
        if self._early is not None:
            self._early -= 1


def _times(tokens: Sequence[int], vocabulary: int) -> Tensor:
    """How often each token of the vocabulary is among these."""
    return torch.bincount(torch.tensor(tokens, dtype=torch.long), minlength=vocabulary).float()
