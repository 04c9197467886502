"""A pool of fixed size for keys and values: pages of a few tokens, counted by who uses them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PAGE = 16  # tokens


def pages_of(tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // PAGE)


class Span(NamedTuple):
    """Tokens that lie side by side in the pool."""

    at: int
    length: int

    @property
    def pages(self) -> slice:
        return slice(self.at // PAGE, (self.at + self.length - 1) // PAGE + 1)


class Pages:
    """Keys and values [layers, 2, kv_heads, tokens, head_dim] of `capacity` bytes.

    `reserved` pages are promised to live requests: the room that is left is for everyone else. Memory is touched only as
    pages are first used, the lowest first.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.page_bytes = layers * 2 * kv_heads * head_dim * dtype.itemsize * PAGE
        self.count = capacity // self.page_bytes
        self._kv = torch.empty(layers, 2, kv_heads, self.count * PAGE, head_dim, device=device, dtype=dtype)
        self.layers = self._kv.unbind()
        self._users = np.zeros(self.count, np.int32)
        self._filled = np.zeros(self.count, np.int32)
        self.used = self.peak = self.reserved = 0
        self._touched = 0  # pages behind these have never been used

    @property
    def room(self) -> int:
        return self.count - self.used - self.reserved

    def take(self, tokens: int, after: int | None = None) -> Span | None:
        """Up to `tokens` side by side, behind place `after` in its own page if nobody has written there. None if full."""
        if after is not None and (span := self._behind(tokens, after)) is not None:
            return self._taken(span)
        need = pages_of(tokens)
        if self.room < 1 or not self.count:
            return None
        start, found = self._free_span(min(need, self.room))
        return self._taken(Span(start * PAGE, min(tokens, found * PAGE)))

    def _behind(self, tokens: int, after: int) -> Span | None:
        """The rest of a page that a text has begun, and the pages behind it as far as they are free."""
        page, inside = divmod(after, PAGE)
        if not inside or self._filled[page] != inside:
            return None
        behind = self._users[page + 1 : page + 1 + min(pages_of(tokens), self.room)]
        free = int(np.argmax(behind != 0)) if behind.any() else len(behind)
        return Span(after, min(tokens, (page + 1 + free) * PAGE - after))

    def _free_span(self, need: int) -> tuple[int, int]:
        """The first span of `need` free pages, or else the longest there is: where it starts and how much to take of it."""
        users = self._users[: self._touched + need]
        edges = np.flatnonzero(np.diff(np.concatenate(([1], users != 0, [1]))))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        fitting = np.flatnonzero(lengths >= need)
        best = fitting[0] if len(fitting) else lengths.argmax()
        return int(starts[best]), min(need, int(lengths[best]))

    def _taken(self, span: Span) -> Span:
        pages = span.pages
        self.used += int((self._users[pages] == 0).sum())
        self.peak = max(self.peak, self.used)
        self._users[pages] += 1
        self._filled[pages] = PAGE
        self._touched = max(self._touched, pages.stop)
        self._filled[pages.stop - 1] = (span.at + span.length - 1) % PAGE + 1
        return span

    def share(self, span: Span) -> None:
        """One more user of these pages."""
        self._users[span.pages] += 1

    def free(self, span: Span) -> None:
        users = self._users[span.pages]
        users -= 1
        self.used -= int((users == 0).sum())

    def view(self, span: Span) -> Tensor:
        """[layers, 2, kv_heads, length, head_dim]"""
        return self._kv[:, :, :, span.at : span.at + span.length]

    def users(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """How many spans use each page."""
        return self._users.copy()
