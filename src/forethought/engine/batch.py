"""One batch of rows: newcomers are prefilled behind what the prefix tree knows, then all decode a token a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from forethought.engine.llama import Llama, Rows, approval, forward, project
from forethought.engine.prefixes import PrefixTree
from forethought.engine.sampling import Sampling, choose

PREFILL_TOKENS = 1024  # one pass takes at most so many tokens: attention scores grow with tokens times context


@dataclass(eq=False, slots=True)
class Row:
    """One request and what has become of it.

    `tokens` are the new ones, `logprobs` their natural logarithms under the model at temperature 1, `top` the alternatives
    asked for. `cached` tokens were known to the tree, `computed` ones were not; `reads` counts the token-steps that
    attention looked at. `outputs` is what a classifier said after each token of `ids`.
    """

    ids: tuple[int, ...]
    how: Sampling
    seed: int
    progress: Callable[[Row], None] = lambda row: None
    graded_from: int | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[dict[int, float]] = field(default_factory=list)
    outputs: list[float] = field(default_factory=list)
    finish: Literal["stop", "end", "length"] | None = None
    cached: int = 0
    computed: int = 0
    reads: int = 0
    done: bool = False
    cancelled: bool = False
    uniforms: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.ids) + len(self.tokens)

    @property
    def reusable(self) -> int:
        """How many tokens need not be computed if the tree knows them: all up to the first whose output is asked for."""
        if self.graded_from is not None:
            return self.graded_from - 1
        return len(self.ids) - 1 if self.how.max_tokens else len(self.ids)

    def stream(self) -> float:
        """The next number of this row's own random stream; neighbours in the batch have no part in it."""
        if not self.uniforms:
            self.uniforms = np.random.Generator(np.random.Philox(self.seed)).random(self.how.max_tokens).tolist()
        return self.uniforms[len(self.tokens)]


class Batch:
    """The rows 0 ... n-1 are live. `stops` tells whether a row has just completed a stop string."""

    def __init__(self, model: Llama, tree: PrefixTree, rows: int, stops: Callable[[Row], bool]) -> None:
        self.model, self.tree, self.stops = model, tree, stops
        self.waiting: deque[Row] = deque()
        self.live: list[Row] = []
        self._max_rows = rows
        self._rows = Rows(model.shape)

    def clear(self) -> None:
        """Forget all requests."""
        self.waiting.clear()
        self.live.clear()

    @torch.inference_mode()
    def run(self, steps: int) -> None:
        """Up to `steps` decode steps; returns early when a request is done."""
        for _ in range(steps):
            self._release()
            while self._admit():
                pass
            if self._leave():  # requests for one token, or for none
                return
            if self.live:
                self._decode()
            if self._leave():
                return

    @torch.inference_mode()
    def tidy(self) -> None:
        """Forget cancelled requests, also those that still wait. Only while nothing runs."""
        self._release()
        self.waiting = deque(row for row in self.waiting if not row.cancelled)

    def _release(self) -> None:
        for row in [r for r in self.live if r.cancelled]:
            self._remove(row)

    def _admit(self) -> bool:
        """Prefill the newcomers for whom there is room. True if there were any."""
        newcomers = self._newcomers()
        if newcomers:
            self._prefill(newcomers)
        return bool(newcomers)

    def _newcomers(self) -> list[Row]:
        """The next rows by arrival. Of those that begin alike beyond what the tree knows only the first: what it computes is
        there for the others in the next pass.
        """
        chosen: dict[Hashable, Row] = {}
        later: deque[Row] = deque()
        while self.waiting and len(self.live) + len(chosen) < self._max_rows:
            row = self.waiting.popleft()
            known, _ = self.tree.match(row.ids)
            first_new: Hashable = row.ids[: known + 1] if known < row.reusable else row
            if not row.cancelled:
                (later.append(row) if first_new in chosen else chosen.setdefault(first_new, row))
        self.waiting.extendleft(reversed(later))
        return list(chosen.values())

    def _prefill(self, newcomers: list[Row]) -> None:
        first = len(self.live)
        self._rows.reserve(first + len(newcomers), max(row.length for row in newcomers))
        newcomers.sort(key=lambda row: len(row.ids) - self._known(row), reverse=True)
        for slot, row in enumerate(newcomers, first):
            self._recall(row, slot)
        last = self._read(newcomers, first)
        self.live.extend(newcomers)
        for slot, row in enumerate(newcomers, first):
            self._remember(row, slot)
        sampling = [i for i, row in enumerate(newcomers) if row.how.max_tokens]
        if sampling:
            self._extend([newcomers[i] for i in sampling], torch.stack([last[i] for i in sampling]))

    def _known(self, row: Row) -> int:
        return min(self.tree.match(row.ids)[0], row.reusable)

    def _recall(self, row: Row, slot: int) -> None:
        """Copy what the tree knows of a row's text into its slot."""
        for node, taken in self.tree.match(row.ids)[1]:
            taken = min(taken, row.reusable - row.cached)
            self._rows.write(slot, row.cached, node.kv[:, :, :, :taken])
            row.outputs += node.outputs[:taken].tolist()
            row.cached += taken

    def _read(self, rows: list[Row], first: int) -> dict[int, Tensor]:
        """Compute what is not cached, a piece of the rows at a time, those with the most to read first in `rows`.

        Returns the hidden state after each row's last token, by its index.
        """
        done, last = 0, dict[int, Tensor]()
        todo = [row.ids[row.cached :] for row in rows]
        while busy := sum(len(ids) > done for ids in todo):
            width = min(max(1, PREFILL_TOKENS // busy), len(todo[0]) - done)
            pieces = [ids[done : done + width] for ids in todo[:busy]]
            starts = torch.tensor([row.cached + done for row in rows[:busy]])
            self._rows.reserve(0, int(starts.max()) + width)  # the padding of short rows may stand behind the longest
            ids = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces])
            hidden = forward(self.model, self._rows, ids, starts, first)
            for i, (row, piece) in enumerate(zip(rows, pieces, strict=False)):
                self._read_given(row, hidden[i, : len(piece)], row.cached + done)
                last[i] = hidden[i, len(piece) - 1]
            done += width
        return last

    def _read_given(self, row: Row, hidden: Tensor, start: int) -> None:
        """Count the piece that begins at `start`, and keep what a classifier says of it or a graded text's likelihood."""
        stop = start + len(hidden)
        row.computed += len(hidden)
        row.reads += (start + 1 + stop) * len(hidden) // 2
        if self.model.head_bias is not None:
            row.outputs += approval(self.model, hidden).tolist()
        elif row.graded_from is not None:
            skip = max(0, row.graded_from - 1 - start)
            asked = torch.tensor(row.ids[start + skip + 1 : stop + 1], dtype=torch.long)
            logits = project(self.model, hidden[skip : skip + len(asked)])
            row.logprobs += logits.log_softmax(-1).gather(1, asked[:, None]).squeeze(1).tolist()

    def _remember(self, row: Row, slot: int) -> None:
        """Put what the tree does not know into it. The last sampled token has no keys and values yet."""
        text = (*row.ids, *row.tokens[:-1])
        known, _ = self.tree.match(text)
        if known < len(text):
            outputs = torch.tensor(row.outputs[known:])
            self.tree.insert(text, known, self._rows.read(slot, known, len(text)), outputs)

    def _decode(self) -> None:
        rows = self.live
        self._rows.reserve(len(rows), max(row.length for row in rows))
        ids = torch.tensor([[row.tokens[-1]] for row in rows])
        starts = torch.tensor([row.length - 1 for row in rows])
        hidden = forward(self.model, self._rows, ids, starts, 0)
        for row in rows:
            row.computed += 1
            row.reads += row.length
        self._extend(rows, hidden[:, 0])

    def _extend(self, rows: list[Row], hidden: Tensor) -> None:
        """Sample one token for each row."""
        logits = project(self.model, hidden)
        uniforms = torch.tensor([row.stream() for row in rows], dtype=torch.double)
        chosen = choose(logits, [row.how for row in rows], uniforms)
        for i, row in enumerate(rows):
            if len(row.tokens) < len(row.how.forced):
                chosen[i] = row.how.forced[len(row.tokens)]
        norms = logits.logsumexp(-1)
        logprobs = (logits.gather(1, chosen[:, None]).squeeze(1) - norms).tolist()
        for i, (row, token, logprob) in enumerate(zip(rows, chosen.tolist(), logprobs, strict=True)):
            if row.how.top:
                values, ids = (logits[i] - norms[i]).topk(row.how.top)
                row.top.append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
            self._append(row, token, logprob)

    def _append(self, row: Row, token: int, logprob: float) -> None:
        row.tokens.append(token)
        row.logprobs.append(logprob)
        if token in self.model.eos:
            row.finish = "end"
        elif self.stops(row):
            row.finish = "stop"
        elif len(row.tokens) >= row.how.max_tokens:
            row.finish = "length"

    def _leave(self) -> bool:
        """Let finished rows go; what they computed stays in the tree."""
        leaving = [row for row in self.live if row.finish is not None or not row.how.max_tokens]
        for row in leaving:
            if row.tokens:
                self._remember(row, self.live.index(row))
            self._remove(row)
            row.done = True
        return bool(leaving)

    def _remove(self, row: Row) -> None:
        """Free a row's slot; the last row moves into it, so that the live ones stay together."""
        slot, last = self.live.index(row), len(self.live) - 1
        if slot != last:
            self._rows.move(last, slot, self.live[last].length)
            self.live[slot] = self.live[last]
        self.live.pop()
