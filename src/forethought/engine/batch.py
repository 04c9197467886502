"""The scheduler: each step decodes a token of every row that writes, and reads a bounded chunk of the rows that begin."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from forethought.core.errors import ModelError
from forethought.engine.drawing import BROKEN, Drawing
from forethought.engine.layout import Layout
from forethought.engine.llama import Llama, forward
from forethought.engine.pages import Pages, pages_of
from forethought.engine.prefixes import PrefixTree, common
from forethought.engine.rows import Place, Row

PREFILL_TOKENS = 512  # read in one step at most, so that decoding never waits long


@dataclass(slots=True)
class Statistics:
    """What an engine has done: `rows` is the sum of the live rows over the steps."""

    steps: int = 0
    rows: int = 0
    tokens_computed: int = 0
    tokens_reused: int = 0
    seconds: float = 0.0
    pages_live: int = 0
    pages_peak: int = 0

    @property
    def occupancy(self) -> float:
        """Live rows in a step, on average."""
        return self.rows / max(self.steps, 1)


class Batch:
    """Rows wait, read, write, and leave, in this order and by arrival. Each live row has a slot: first those that write
    (`decoding`), then those that read (`reading`), of which only the last may not be through after a step. Those whose prompt
    is known to its end (`ready`) have a slot once they write.
    """

    def __init__(self, model: Llama, kv_bytes: int, rows: int, stops: Callable[[Row], bool]) -> None:
        s, device = model.shape, model.embedding.device
        self.model = model
        self.pages = Pages(s.layers, s.kv_heads, s.head_dim, kv_bytes, device)
        self.tree = PrefixTree(self.pages)
        self.waiting: deque[Row] = deque()
        self.decoding: list[Row] = []
        self.reading: list[Row] = []
        self.ready: list[Row] = []
        self.statistics = Statistics()
        self._layout = Layout(model, self.tree)
        self._drawing = Drawing(model, stops)
        self._max_rows = rows

    @property
    def live(self) -> list[Row]:
        return self.decoding + self.reading + self.ready

    @torch.inference_mode()
    def run(self, steps: int) -> None:
        """Up to `steps` steps; returns early when a request is done."""
        for _ in range(steps):
            start = time.perf_counter()
            self._release()
            done = self._admit()
            if self.live:
                self._step()
            done |= self._leave()
            self._count(time.perf_counter() - start)
            if done:
                return

    @torch.inference_mode()
    def tidy(self) -> None:
        """Forget cancelled requests, also those that still wait. Only while nothing runs."""
        self._release()
        self.waiting = deque(row for row in self.waiting if not row.cancelled)

    @torch.inference_mode()
    def clear(self) -> None:
        """Forget all requests."""
        self.waiting.clear()
        for row in reversed(self.live):
            self._remove(row)

    def _count(self, seconds: float) -> None:
        told = self.statistics
        told.seconds += seconds
        told.pages_live, told.pages_peak = self.pages.used, self.pages.peak

    def _release(self) -> None:
        for row in [r for r in reversed(self.live) if r.cancelled]:
            self._remove(row)

    # joining

    def _admit(self) -> bool:
        """Seat those for whom there is room, by arrival. Who begins like one that reads now waits for what that one computes.

        True if a request is done because the tree knows all that it asks for.
        """
        left = PREFILL_TOKENS - sum(len(row.ids) - _place(row).filled for row in self.reading)
        later, done = deque[Row](), False
        while self.waiting and left > 0 and len(self.live) < self._max_rows:
            row = self.waiting.popleft()
            if row.cancelled:
                continue
            known, node = self.tree.match(row.ids)
            last = node.ends.get(len(row.ids)) if row.how.max_tokens and known == len(row.ids) else None
            known = min(known, row.reusable) if last is None else known
            if any(min(common(row.ids, r.ids, 0), row.reusable) > known for r in self.reading):
                later.append(row)
                continue
            row.place = Place(node, known, known, known, last=last)
            self.tree.lock(node)
            if not self._promise(row):
                self.tree.lock(node, -1)
                row.place = None
                self.waiting.appendleft(row)
                break
            self._seat(row)
            left -= len(row.ids) - row.cached
            done |= row.done
        self.waiting.extendleft(reversed(later))
        return done

    def _promise(self, row: Row) -> bool:
        """Set pages aside for all that the row may write, so that no live row ever lacks one. False if it has to wait."""
        place = _place(row)
        need = pages_of(row.most - place.known) + (place.known > 0)
        self.tree.evict(need)
        if need > self.pages.room and not self.live:  # alone: it may have the whole pool
            self.tree.lock(place.node, -1)
            self.tree.evict(self.pages.count)
            row.place = place = Place(self.tree.root, 0, 0, 0)
            need = pages_of(row.most)
            self.tree.lock(place.node)
        if need > self.pages.room:
            return False
        place.promised = need
        self.pages.reserved += need
        return True

    def _seat(self, row: Row) -> None:
        place = _place(row)
        row.cached = place.known
        self.statistics.tokens_reused += place.known
        for node, taken in self.tree.path(place.node, place.known):
            row.outputs += node.outputs[:taken].tolist()
        if place.filled == row.most:  # nothing is left to compute
            self._let_go(row)
            row.done = True
            return
        if place.last is not None:
            self.ready.append(row)
            return
        self.reading.append(row)
        self._layout.joined()

    # a step

    def _step(self) -> None:
        takes, n = self._takes(), len(self.decoding)
        hidden, through, last = self._forward(takes), list[Row](), list[int]()
        self._tally(takes, n)
        if hidden is not None:
            through, last = self._read(hidden[n:], takes)
        drawing = [(row, n + place) for row, place in zip(through, last, strict=True) if row.how.max_tokens]
        drawing = [(row, place) for row, place in drawing if not row.ended]
        states = [hidden[:n], hidden[[place for _, place in drawing]]] if hidden is not None else []
        states += [state[None] for row in self.ready if (state := _place(row).last) is not None]
        rows = self.decoding + [row for row, _ in drawing] + self.ready
        if rows:
            self._drawing.extend(rows, torch.cat(states) if len(rows) > n else states[0])
        self._write(through)

    def _forward(self, takes: Sequence[int]) -> Tensor | None:
        if not self.decoding and not self.reading:
            return None
        return forward(self.model, self._layout.slots, self._layout.step(self.decoding, self.reading, takes))

    def _write(self, through: Sequence[Row]) -> None:
        """Those who have their first token write from now on. One that still reads makes room for those who came ready."""
        del self.reading[: len(through)]
        if not through and not self.ready:
            return
        self.decoding += through
        slot = len(self.decoding)
        self._layout.slots.reserve(slot + len(self.ready) + len(self.reading), 1)
        if self.ready and self.reading:
            self._move(self.reading[0], slot, slot + len(self.ready))
        self.decoding += self.ready
        self.ready = []
        self._layout.joined()

    def _takes(self) -> list[int]:
        """How many tokens each of the reading rows reads in this step, by arrival."""
        takes, left = list[int](), PREFILL_TOKENS
        for row in self.reading:
            takes.append(min(left, len(row.ids) - _place(row).filled))
            left -= takes[-1]
        return takes

    def _tally(self, takes: Sequence[int], n: int) -> None:
        for row in self.decoding:
            row.computed += 1
            row.reads += row.length
            _place(row).filled += 1
        told = self.statistics
        told.steps += 1
        told.rows += n + len(takes)
        told.tokens_computed += n + sum(takes)

    def _read(self, hidden: Tensor, takes: Sequence[int]) -> tuple[list[Row], list[int]]:
        """Count what the reading rows have read and publish it. Returns those that are through, and where in `hidden` their
        last tokens are.
        """
        through, last, start = list[Row](), list[int](), 0
        for row, take in zip(self.reading, takes, strict=True):
            place, stop = _place(row), start + take
            self._drawing.given(row, hidden[start:stop], place.filled)
            if not hidden[start:stop].isfinite().all():  # nobody else shall go on from this
                row.error = ModelError(BROKEN)
            row.computed += take
            row.reads += (2 * place.filled + take + 1) * take // 2
            place.filled += take
            self._publish(row)
            if place.filled == len(row.ids):
                through.append(row)
                last.append(stop - 1)
                if place.known == place.filled and row.error is None:
                    place.node.ends[place.known] = hidden[stop - 1].clone()
            start = stop
        return through, last

    def _publish(self, row: Row) -> None:
        """Put what the row has computed into the tree, where it stays locked, and promise only the rest."""
        place = _place(row)
        if row.error is not None:
            return
        self.pages.reserved -= place.promised
        text = (*row.ids, *row.tokens)[: place.filled]
        kv = self._layout.slots.row(self._slot(row), place.column(place.tail), place.columns)
        known, node = self.tree.insert(text, place.tail, kv, torch.tensor(row.outputs[place.tail :]))
        if known >= place.known:
            self.tree.lock(node)
            self.tree.lock(place.node, -1)
            place.node, place.known = node, known
        rest = pages_of(row.most - place.known) + 1
        place.promised = max(0, min(rest, self.pages.room))
        self.pages.reserved += place.promised

    # leaving

    def _leave(self) -> bool:
        """Let finished rows go; what they computed stays in the tree."""
        leaving = [row for row in self.live if row.ended or (not row.how.max_tokens and row in self.decoding)]
        for row in reversed(leaving):  # the last slots first: they leave no hole
            if row.tokens:
                self._publish(row)
            self._remove(row)
            row.done = True
        return bool(leaving)

    def _slot(self, row: Row) -> int:
        return self.decoding.index(row) if row in self.decoding else len(self.decoding) + self.reading.index(row)

    def _remove(self, row: Row) -> None:
        """Free a row's slot, and close the gap with the last row that writes and the last that reads."""
        if row in self.ready:
            self.ready.remove(row)
            self._let_go(row)
            return
        slot = self._slot(row)
        if row.error is not None:
            self._layout.slots.clear(slot)
        if row in self.decoding:
            slot = self._fill(slot, self.decoding, 0)
            if self.reading:
                self._move(self.reading[-1], len(self.decoding) + len(self.reading), slot)
                self.reading.insert(0, self.reading.pop())
        else:
            self._fill(slot, self.reading, len(self.decoding))
        self._let_go(row)
        self._layout.left()

    def _fill(self, slot: int, rows: list[Row], first: int) -> int:
        """Move the last of `rows` into `slot`. Returns the slot that is free now."""
        last = first + len(rows) - 1
        if slot != last:
            self._move(rows[-1], last, slot)
            rows[slot - first] = rows[-1]
        rows.pop()
        return last

    def _move(self, row: Row, source: int, target: int) -> None:
        if source != target:
            self._layout.slots.move(source, target, _place(row).columns)

    def _let_go(self, row: Row) -> None:
        place = _place(row)
        self.pages.reserved -= place.promised
        self.tree.lock(place.node, -1)
        row.place = None


def _place(row: Row) -> Place:
    assert row.place is not None
    return row.place
