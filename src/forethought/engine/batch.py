"""The scheduler: each step decodes a token of every row that writes, and reads a bounded chunk of the rows that begin."""

from __future__ import annotations

import math
import threading
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
from forethought.engine.pages import PAGE, Pages, pages_of
from forethought.engine.prefixes import PrefixTree
from forethought.engine.rows import Place, Row, by_prompt, soon
from forethought.engine.seats import Seats
from forethought.engine.slots import tokens_of

PREFILL_TOKENS = 512  # read in one step at most, so that decoding never waits long
SLOTS = 2  # times the memory of the pool, at most, for the slots of live rows


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
    """Rows wait, read, write, and leave, in this order and by arrival. Of those that read, only the last may not be through
    after a step.
    """

    def __init__(self, model: Llama, kv_bytes: int, rows: int, stops: Callable[[Row], bool]) -> None:
        s, device = model.shape, model.embedding.device
        self.model = model
        self.pages = Pages(s.layers, s.kv_heads, s.head_dim, kv_bytes, device, model.dtype)
        self.tree = PrefixTree(self.pages)
        self.waiting: deque[Row] = deque()
        self.statistics = Statistics()
        self.seats = Seats(Layout(model, self.tree))
        self._drawing = Drawing(model, stops)
        self._max_rows = rows
        self._longest = 0  # tokens that any live row may come to; some that might have come to more may have left
        self._lock = threading.Lock()  # a task that is cancelled natively leaves its worker thread running

    @property
    def live(self) -> list[Row]:
        return self.seats.live

    @torch.inference_mode()
    def run(self, steps: float = math.inf, seconds: float = math.inf) -> None:
        """A step, and more up to `steps` while these seconds are not over; returns early when a request is done, or nobody
        is left.
        """
        end = time.perf_counter() + seconds
        with self._lock:
            while not self._advance() and steps > 1 and time.perf_counter() < end and (self.live or self.waiting):
                steps -= 1

    def _advance(self) -> bool:
        """One step. True if a request is done."""
        start = time.perf_counter()
        self._release()
        done = self._admit()
        if self.live:
            self._step()
        done |= self._leave()
        self._count(time.perf_counter() - start)
        return done

    @torch.inference_mode()
    def tidy(self) -> None:
        """Forget cancelled requests, also those that still wait. Waits for a run that goes on."""
        with self._lock:
            self._release()
            self.waiting = deque(row for row in self.waiting if not row.cancelled)

    def group(self, last: int) -> None:
        """Let the rows that came last, so many of them, begin prompt by prompt. Waits for a run that goes on."""
        with self._lock:
            self.waiting = deque(by_prompt([*self.waiting], last))

    @torch.inference_mode()
    def clear(self) -> None:
        """Forget the live requests, after a step that failed."""
        with self._lock:
            for row in reversed(self.live):
                self._remove(row)

    def _count(self, seconds: float) -> None:
        self.statistics.seconds += seconds
        self.statistics.pages_live, self.statistics.pages_peak = self.pages.used, self.pages.peak

    def _release(self) -> None:
        for row in [r for r in reversed(self.live) if r.cancelled]:
            self._remove(row)

    # joining

    def _admit(self) -> bool:
        """Seat those for whom there is room, by arrival. Who begins like one that reads now waits for what that one computes;
        a seat, a slot and pages are kept for it. True if a request is done because the tree knows all that it asks for.
        """
        left = PREFILL_TOKENS - sum(len(row.ids) - row.seat.filled for row in self.seats.reading)
        later, kept, done = deque[Row](), 0, False
        while self.waiting and left > 0 and len(self.live) + len(later) < self._max_rows:
            row = self.waiting.popleft()
            if row.cancelled:
                continue
            known, node = self.tree.match(row.ids)
            last = node.ends.get(len(row.ids)) if row.how.max_tokens and known == len(row.ids) else None
            known = min(known, row.reusable) if last is None else known
            if told := soon(row, known, self.seats.reading):
                later.append(row)
                kept += pages_of(row.most - told) + 1
                self._longest = max(self._longest, row.most)
                continue
            node = self.tree.cut(node, known)
            row.place = Place(node, known, known, known, last=last)
            self.tree.lock(node)
            if not self._promise(row, later, kept):
                self.tree.lock(node, -1)
                row.place = None
                self.waiting.appendleft(row)
                break
            self._seat(row)
            left -= len(row.ids) - row.cached
            done |= row.done
        self.waiting.extendleft(reversed(later))
        return done

    def _promise(self, row: Row, later: Sequence[Row], kept: int) -> bool:
        """Set pages aside for all that the row may write, so that no live row ever lacks one; leave `kept` for those `later`.
        False if it has to wait, also because the slots of all, each as long as the longest, would not fit.
        """
        place, others = row.seat, [*self.live, *later]
        if others and not self._slots_fit(row, others):
            return False
        self._longest = max(self._longest, row.most) if others else row.most
        need = pages_of(row.most - place.known) + (place.known > 0)
        self.tree.evict(need + kept)
        if need > self.pages.room and not others:  # alone: it may have the whole pool
            self.tree.lock(place.node, -1)
            self.tree.evict(self.pages.count)
            row.place = place = Place(self.tree.root, 0, 0, 0)
            need = pages_of(row.most)
            self.tree.lock(place.node)
        if fits := need + kept <= self.pages.room:
            self._set_aside(place, need)
        return fits

    def _slots_fit(self, row: Row, others: Sequence[Row]) -> bool:
        """Whether the slots of all fit, each as long as the longest; of those that have left some may have been longer."""
        room, n = SLOTS * self.pages.count * PAGE, len(others) + 1
        if tokens_of(n, max(self._longest, row.most)) <= room:
            return True
        self._longest = max(r.most for r in others)
        return tokens_of(n, max(self._longest, row.most)) <= room

    def _set_aside(self, place: Place, pages: int) -> None:
        """Promise so many pages, in place of what was."""
        self.pages.reserved += pages - place.promised
        place.promised = pages

    def _seat(self, row: Row) -> None:
        place = row.seat
        row.cached = place.known
        self.statistics.tokens_reused += place.known
        if self.model.classifies:
            for node, taken in self.tree.path(place.node, place.known):
                row.outputs += node.outputs[:taken]
        if place.filled == row.most:  # nothing is left to compute
            self._let_go(row)
            row.done = True
            return
        if place.last is not None:
            self.seats.ready.append(row)
            return
        self.seats.reading.append(row)
        self.seats.layout.joined()

    # a step

    def _step(self) -> None:
        seats, takes, n = self.seats, self._takes(), len(self.seats.decoding)
        hidden, through, last = self._forward(takes), list[Row](), list[int]()
        self._tally(takes, n)
        if hidden is not None:
            through, last = self._read(hidden[n:], takes)
        drawing = [(row, n + place) for row, place in zip(through, last, strict=True) if row.how.max_tokens]
        drawing = [(row, place) for row, place in drawing if not row.ended]
        states = [hidden[:n], hidden[[place for _, place in drawing]]] if hidden is not None else []
        states += [state[None] for row in seats.ready if (state := row.seat.last) is not None]
        rows = seats.decoding + [row for row, _ in drawing] + seats.ready
        if rows:
            self._drawing.extend(rows, torch.cat(states) if len(rows) > n else states[0])
        seats.write(len(through))

    def _forward(self, takes: Sequence[int]) -> Tensor | None:
        seats = self.seats
        if not seats.decoding and not seats.reading:
            return None
        step = seats.layout.step(seats.decoding, seats.reading, takes)
        return forward(self.model, seats.layout.slots, step)

    def _takes(self) -> list[int]:
        """How many tokens each of the reading rows reads in this step, by arrival."""
        takes, left = list[int](), PREFILL_TOKENS
        for row in self.seats.reading:
            takes.append(min(left, len(row.ids) - row.seat.filled))
            left -= takes[-1]
        return takes

    def _tally(self, takes: Sequence[int], n: int) -> None:
        for row in self.seats.decoding:
            row.computed += 1
            row.reads += row.length
            row.seat.filled += 1
        told = self.statistics
        told.steps += 1
        told.rows += len(self.live)
        told.tokens_computed += n + sum(takes)

    def _read(self, hidden: Tensor, takes: Sequence[int]) -> tuple[list[Row], list[int]]:
        """Count what the reading rows have read and publish it. Returns those that are through, and where in `hidden` their
        last tokens are.
        """
        through, last, start = list[Row](), list[int](), 0
        sound = hidden.isfinite().all(-1).tolist() if takes else []
        for row, take in zip(self.seats.reading, takes, strict=True):
            place, stop = row.seat, start + take
            self._drawing.given(row, hidden[start:stop], place.filled)
            if not all(sound[start:stop]):  # nobody else shall go on from this
                row.error = ModelError(BROKEN)
            row.computed += take
            row.reads += (2 * place.filled + take + 1) * take // 2
            place.filled += take
            self._publish(row)
            if place.filled == len(row.ids):
                through.append(row)
                last.append(stop - 1)
                if row.how.max_tokens and place.known == place.filled and row.error is None:
                    place.node.ends[place.known] = hidden[stop - 1].clone()
            start = stop
        return through, last

    def _publish(self, row: Row) -> None:
        """Put what the row has computed into the tree, where it stays locked, and promise only the rest."""
        place = row.seat
        if row.error is not None:
            return
        self._set_aside(place, 0)
        text = (*row.ids, *row.tokens)[: place.filled]
        kv = self.seats.keys_values(row)
        known, node = self.tree.insert(text, place.tail, kv, row.outputs[place.tail :])
        self.tree.lock(node, below=place.node)  # which is locked itself, so this is no less
        place.node, place.known = node, known
        rest = pages_of(row.most - place.known) + 1
        self._set_aside(place, max(0, min(rest, self.pages.room)))

    # leaving

    def _leave(self) -> bool:
        """Let finished rows go; what they computed stays in the tree."""
        leaving = [row for row in self.live if row.ended or (not row.how.max_tokens and row in self.seats.decoding)]
        for row in reversed(leaving):  # the last slots first: they leave no hole
            if row.tokens:
                self._publish(row)
            self._remove(row)
            row.done = True
        return bool(leaving)

    def _remove(self, row: Row) -> None:
        self.seats.remove(row)
        self._let_go(row)

    def _let_go(self, row: Row) -> None:
        place = row.seat
        self._set_aside(place, 0)
        self.tree.lock(place.node, -1)
        row.place = None
