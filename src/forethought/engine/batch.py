"""One batch of rows: newcomers are prefilled behind what the prefix tree knows, then all decode a token a step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from forethought.engine.llama import Llama, Rows, forward, project
from forethought.engine.prefixes import PrefixTree
from forethought.engine.sampling import Sampling, choose


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
            self._drop_cancelled()
            while self._admit():
                pass
            if self._leave():  # requests for one token, or for none
                return
            if self.live:
                self._decode()
            if self._leave():
                return

    def _drop_cancelled(self) -> None:
        for row in [r for r in self.live if r.cancelled]:
            self._remove(row)

    def _admit(self) -> bool:
        """Prefill newcomers in one pass, except those that share more than the tree knows: they wait for the next.

        So nothing is computed twice, and what all of them cost together does not depend on who met whom.
        """
        newcomers: list[Row] = []
        begun: set[tuple[int, ...]] = set()  # what the tree is going to know after this pass
        later: deque[Row] = deque()
        while self.waiting and len(self.live) + len(newcomers) < self._max_rows:
            row = self.waiting.popleft()
            if row.cancelled:
                continue
            known = self.tree.match(row.ids)[0]
            unknown = row.ids[: known + 1]
            if known < len(row.ids) - 1 and unknown in begun:
                later.append(row)
                continue
            begun.add(unknown)
            newcomers.append(row)
        self.waiting.extendleft(reversed(later))
        if newcomers:
            self._prefill(newcomers)
        return bool(newcomers)

    def _prefill(self, newcomers: list[Row]) -> None:
        first = len(self.live)
        self._rows.reserve(first + len(newcomers), max(r.length + r.how.max_tokens for r in newcomers))
        starts = [self._recall(row, first + i) for i, row in enumerate(newcomers)]
        pieces = [row.ids[start:] for row, start in zip(newcomers, starts, strict=True)]
        width = max(map(len, pieces))
        ids = torch.tensor([[*piece, *[0] * (width - len(piece))] for piece in pieces])
        self._rows.reserve(first + len(newcomers), max(starts) + width)
        hidden = forward(self.model, self._rows, ids, torch.tensor(starts), first)
        self.live.extend(newcomers)
        for i, (row, start) in enumerate(zip(newcomers, starts, strict=True)):
            row.computed += len(pieces[i])
            row.reads += (start + row.length + 1) * len(pieces[i]) // 2
            self._read_given(row, hidden[i, : len(pieces[i])], start)
            self._remember(row, first + i, start)
        sampled = [row.how.max_tokens > 0 for row in newcomers]
        last = torch.stack([hidden[i, len(piece) - 1] for i, piece in enumerate(pieces)])
        if any(sampled):
            self._extend(newcomers, last)

    def _recall(self, row: Row, slot: int) -> int:
        """Copy what the tree knows of a row's text into its slot; at least one token is left to compute."""
        most = len(row.ids) - 1 if row.how.max_tokens or row.graded_from is not None else len(row.ids)
        most = most if row.graded_from is None else row.graded_from - 1
        _, path = self.tree.match(row.ids)
        length = 0
        for node, taken in path:
            taken = min(taken, most - length)
            self._rows.write(slot, length, node.kv[:, :, :, :taken])
            row.outputs += node.outputs[:taken].tolist()
            length += taken
        if length == len(row.ids):  # a classifier has read all of it before: one token more does no harm
            length, row.outputs = length - 1, row.outputs[:-1]
        row.cached = length
        return length

    def _read_given(self, row: Row, hidden: Tensor, start: int) -> None:
        """What a classifier says of the given tokens, or a generator of the likelihood of the graded ones."""
        if self.model.head_bias is not None:
            logits = project(self.model, hidden)
            row.outputs += (logits[:, 1] - logits[:, 0]).sigmoid().tolist()
        elif row.graded_from is not None:
            logits = project(self.model, hidden[row.graded_from - 1 - start : -1])
            asked = torch.tensor(row.ids[row.graded_from :], dtype=torch.long)
            row.logprobs = logits.log_softmax(-1).gather(1, asked[:, None]).squeeze(1).tolist()

    def _remember(self, row: Row, slot: int, start: int) -> None:
        """Put what was computed from `start` on into the tree. The last sampled token has no keys and values yet."""
        text = [*row.ids, *row.tokens[:-1]]
        if len(text) > start:
            self.tree.insert(text, start, self._rows.read(slot, start, len(text)), torch.tensor(row.outputs[start:]))

    def _decode(self) -> None:
        rows = self.live
        ids = torch.tensor([[row.tokens[-1]] for row in rows])
        starts = torch.tensor([row.length - 1 for row in rows])
        hidden = forward(self.model, self._rows, ids, starts, 0)
        for row in rows:
            row.computed += 1
            row.reads += row.length
        self._extend(rows, hidden[:, 0])

    def _extend(self, rows: list[Row], hidden: Tensor) -> None:
        """Sample one token for each row that wants one."""
        logits = project(self.model, hidden)
        uniforms = torch.tensor([row.stream() if row.how.max_tokens else 0.0 for row in rows], dtype=torch.double)
        chosen = choose(logits, [row.how for row in rows], uniforms)
        for i, row in enumerate(rows):
            if len(row.tokens) < len(row.how.forced):
                chosen[i] = row.how.forced[len(row.tokens)]
        logprobs = logits.log_softmax(-1)
        of_chosen = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
        for i, (row, token, logprob) in enumerate(zip(rows, chosen.tolist(), of_chosen, strict=True)):
            if row.how.max_tokens:
                self._append(row, token, logprob, logprobs[i])

    def _append(self, row: Row, token: int, logprob: float, logprobs: Tensor) -> None:
        row.tokens.append(token)
        row.logprobs.append(logprob)
        if row.how.top:
            values, ids = logprobs.topk(row.how.top)
            row.top.append(dict(zip(ids.tolist(), values.tolist(), strict=True)))
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
                self._remember(row, self.live.index(row), len(row.ids))
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
