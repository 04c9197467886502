"""Where the tokens of a step go and what they attend to: tensors that are kept from step to step while the rows stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from itertools import accumulate, groupby

import torch
from torch import Tensor

from forethought.engine.attention import Lane, Rows, Shared
from forethought.engine.compiled import Own, compiles
from forethought.engine.llama import Llama, Step, turns
from forethought.engine.pages import Span
from forethought.engine.placement import sent
from forethought.engine.prefixes import Node, PrefixTree
from forethought.engine.rows import Place, Row
from forethought.engine.sharing import in_place, plan
from forethought.engine.slots import Slots

LANE = 1 << 15  # reads a layer: what the kernels of one more rectangle cost, roughly
LITTLE = 1 << 13  # reads a layer of a row: with more, products of many tokens at once are faster than reading in place


class Layout:
    """Slots of live rows and the steps over them."""

    def __init__(self, model: Llama, tree: PrefixTree) -> None:
        s = self._shape = model.shape
        self._device, self._tree = model.embedding.device, tree
        self.slots = Slots(s.layers, s.kv_heads, s.head_dim, self._device, model.dtype)
        self._replan = self._rebuild = True
        self._positions = self._columns = self._places = self._long([])
        self._together: tuple[Shared, ...] = ()
        self._own = self._columns, self._columns, 0
        self._least = self._most = 0  # columns of the rows that decode
        self._longest = 0  # tokens that any of them may come to
        self._turns = turns(s, self._positions)

    def joined(self) -> None:
        """Rows have come, or know more: what they share is planned anew."""
        self._replan = self._rebuild = True

    def left(self) -> None:
        """Rows have gone or moved."""
        self._rebuild = True

    def step(self, decoding: Sequence[Row], reading: Sequence[Row], takes: Sequence[int]) -> Step:
        """The next token of each of `decoding`, and the next `takes` tokens of `reading`."""
        if self._replan:
            self._arrange(decoding, reading)
        self._count(decoding)
        self._reserve(len(decoding), reading, takes)
        ids = [row.tokens[-1] for row in decoding]
        lanes: list[Lane | Rows] = [self._decode_lane(decoding)] if decoding else []
        positions, places = self._positions[: len(decoding)], self._places if decoding else self._places[:0]
        if reading:
            ids += [i for row, take in zip(reading, takes, strict=True) for i in _next(row, take)]
            where, write = list[Tensor](), list[Tensor]()
            for some in _parts(reading, takes):
                first = len(decoding) + sum(takes[: some.start])
                made = self._lane_in_place if reading[some.start].seat.planned is not None else self._read_lane
                lane, at, columns, slots = made(reading[some], takes[some], len(decoding) + some.start, first)
                lanes.append(lane)
                where.append(at)
                write.append(self.slots.places(slots, columns))
            positions, places = torch.cat([positions, *where]), torch.cat([places, *write])
        return Step(self._long(ids), self._turns.index_select(0, positions), places, tuple(lanes))

    def _arrange(self, decoding: Sequence[Row], reading: Sequence[Row]) -> None:
        """Plan what is shared. What is not is read in place by rows that decode or read little, where they can, and else
        brought into the slots.
        """
        rows, copies = [*decoding, *reading], dict[Row, tuple[Span, ...]]()
        lanes = [decoding, reading]
        if compiles(self._device):
            self._read_in_place(decoding, self._tree.crowded)
            self._read_in_place([row for row in reading if _reads_little(row)], frozenset())
            lanes = [[row for row in reading if not _reads_little(row)]]
        for some in lanes:
            for row, (shared, copied) in zip(some, plan(some, self._tree), strict=True):
                row.seat.shared, row.seat.own, row.seat.planned, copies[row] = shared, (), None, copied
        parts = [(row.seat, copies.get(row, ())) for row in rows]
        columns = [length_of(copied) + place.filled - place.known for place, copied in parts]
        self.slots.reserve(len(rows), max(columns, default=0) + 1, used(rows))
        for slot, (place, copied) in enumerate(parts):
            if copied != place.copied or place.tail != place.known:
                self._refill(slot, place, copied)
        self._replan = False

    def _read_in_place(self, rows: Sequence[Row], crowded: Set[Node]) -> None:
        """What has been planned stays where it lies, so only what is new is planned while no part of the tree is crowded."""
        for place in (row.seat for row in rows):
            if crowded or place.shared or place.planned != place.known:
                (place.shared, place.own), place.planned = in_place(place, self._tree, crowded), place.known

    def _refill(self, slot: int, place: Place, copied: tuple[Span, ...]) -> None:
        """Bring these spans to the beginning of a slot, and what the tree does not know behind them."""
        rest = self.slots.row(slot, place.column(place.known), place.columns).clone()
        place.copied, place.head, place.tail = copied, length_of(copied), place.known
        start = 0
        for span in copied:
            self.slots.row(slot, start, start + span.length).copy_(self._tree.pages.view(span))
            start += span.length
        self.slots.row(slot, start, place.columns).copy_(rest)

    def _count(self, decoding: Sequence[Row]) -> None:
        """How many columns they have: one more than in the step before while they stay."""
        if not self._rebuild:
            self._least, self._most = self._least + 1, self._most + 1
            return
        columns = [_columns(row) for row in decoding] or [0]
        self._least, self._most = min(columns), max(columns)
        self._longest = max((row.most for row in decoding), default=0)

    def _reserve(self, decoding: int, reading: Sequence[Row], takes: Sequence[int]) -> None:
        """Room for what this step writes, and turns for every position that a row may come to."""
        read = (_columns(row) + take for row, take in zip(reading, takes, strict=True))
        wanted = max((self._most + (decoding > 0), *read))
        longest = max((self._longest, *(row.most for row in reading)))
        self._rebuild |= self.slots.reserve(decoding + len(reading), wanted, wanted, longest)
        if len(self._turns) < longest:
            self._turns = turns(self._shape, torch.arange(1 << longest.bit_length(), device=self._device))

    def _decode_lane(self, rows: Sequence[Row]) -> Lane | Rows:
        if self._rebuild:
            self._positions = self._long([row.length - 1 for row in rows])
            self._columns = self._long([_columns(row) for row in rows])
            self._places = self.slots.places(self._long(range(len(rows))), self._columns)
            self._together = self._shared(rows)
            self._own = self._owned(rows)
            self._rebuild = False
        else:
            self._positions, self._columns = self._positions + 1, self._columns + 1
            self._places = self._places + 1
        length = self._most + 1
        if compiles(self._device):
            firsts, spans, longest = self._own
            own = Own(self._columns, firsts, spans, longest + length)
            return Rows(slice(0, len(rows)), self.slots.layers, self._tree.pages.layers, own, self._together)
        mask = None if self._least == self._most else self._mask(self._columns[:, None], length, 1)
        window = self.slots.window(0, len(rows), length)
        return Lane(len(rows), 1, length, slice(0, len(rows)), *window, mask, shared=self._together)

    def _read_lane(
        self, rows: Sequence[Row], takes: Sequence[int], first: int, token: int
    ) -> tuple[Lane, Tensor, Tensor, Tensor]:
        """The lane of rows from slot `first` and flat token `token` on, and the position, column and slot of each of its
        tokens.
        """
        time, length = max(takes), max(_columns(row) + take for row, take in zip(rows, takes, strict=True))
        taken, steps = self._long(takes), torch.arange(time, device=self._device)
        real = steps < taken[:, None]  # [rows, time]
        filled = self._long([row.seat.filled for row in rows])
        columns = self._long([_columns(row) for row in rows])[:, None] + steps
        slots = torch.arange(first, first + len(rows), device=self._device)[:, None].expand(-1, time)
        padded = flat = None
        if min(takes) < time:
            begin = taken.cumsum(0) - taken
            padded = (begin[:, None] + torch.minimum(steps, taken[:, None] - 1)).view(-1)
            flat = real.view(-1).nonzero().squeeze(1)
        mask = self._mask(columns, length, self._shape.heads // self._shape.kv_heads) if length > 1 else None
        window = self.slots.window(first, len(rows), length)
        tokens = slice(token, token + sum(takes))
        lane = Lane(len(rows), time, length, tokens, *window, mask, padded, flat, self._shared(rows))
        where = (filled[:, None] + steps, columns, slots)
        positions, columns, slots = (t.reshape(-1) if flat is None else t.reshape(-1)[flat] for t in where)
        return lane, positions, columns, slots

    def _lane_in_place(
        self, rows: Sequence[Row], takes: Sequence[int], first: int, token: int
    ) -> tuple[Rows, Tensor, Tensor, Tensor]:
        """The same for rows that read little, where it lies."""
        each = list(zip((row.seat for row in rows), takes, strict=True))
        columns = self._long([place.columns + i for place, take in each for i in range(take)])
        positions = self._long([place.filled + i for place, take in each for i in range(take)])
        of = self._long([row for row, take in enumerate(takes) for _ in range(take)])
        firsts, spans, longest = self._owned(rows)
        own = Own(columns, firsts, spans, longest + max(place.columns + take for place, take in each), of, first)
        lane = Rows(slice(token, token + len(of)), self.slots.layers, self._tree.pages.layers, own)
        return lane, positions, columns, of + first

    def _owned(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, int]:
        """What rows read alone in the pool: `firsts`, `spans` and the most tokens, as in `Own`."""
        spans = [row.seat.own for row in rows]
        firsts, flat = [0, *accumulate(map(len, spans))], [n for some in spans for span in some for n in span]
        return self._long(firsts), self._long(flat), max(map(length_of, spans))

    def _mask(self, columns: Tensor, length: int, group: int) -> Tensor:
        """-inf behind each query's own column: [rows * kv_heads, time * group, length] from columns [rows, time]."""
        hidden = torch.arange(length, device=self._device) > columns[..., None]
        mask = self._hiding(hidden)
        rows, time, _ = mask.shape
        whole = mask[:, None, :, None].expand(rows, self._shape.kv_heads, time, group, length)
        return whole.reshape(rows * self._shape.kv_heads, time * group, length)

    def _shared(self, rows: Sequence[Row]) -> tuple[Shared, ...]:
        """What the rows of a lane read together, with who reads it: of each level of the tree those that are alike at once."""
        found = list[Shared]()
        for level in range(max(len(row.seat.shared) for row in rows)):
            readers = dict[Span, list[int]]()
            for i, row in enumerate(rows):
                for span in row.seat.shared[level : level + 1]:
                    readers.setdefault(span, []).append(i)
            groups = sorted(readers.items(), key=lambda group: group[0].length)
            for some in like([(len(members), span.length) for span, members in groups]):
                found.append(self._read_together(groups[some], len(rows)))
        return tuple(found)

    def _read_together(self, groups: Sequence[tuple[Span, list[int]]], rows: int) -> Shared:
        """Groups of rows, each with what it reads, as one rectangle."""
        kv, mask = self._stacked([span for span, _ in groups])
        keys, values = kv[:, 0].unbind(), kv[:, 1].unbind()
        size = max(len(members) for _, members in groups)
        if size == rows:
            return Shared(keys, values)
        padded = [members[min(i, len(members) - 1)] for _, members in groups for i in range(size)]
        places = {row: place for place, row in reversed(list(enumerate(padded)))}
        absent = torch.tensor([row not in places for row in range(rows)], device=self._device)[:, None, None, None]
        where = self._long([places.get(row, 0) for row in range(rows)])
        return Shared(keys, values, self._long(padded), where, absent if len(places) < rows else None, mask)

    def _stacked(self, spans: Sequence[Span]) -> tuple[Tensor, Tensor | None]:
        """Keys and values [layers, 2, spans, kv_heads, longest, head_dim] of spans by length, a view if
        it is the only one; a mask if lengths differ.
        """
        views, lengths = [self._tree.pages.view(span) for span in spans], [span.length for span in spans]
        if len(spans) == 1:
            return views[0][:, :, None], None
        layers, two, kv_heads, longest, head_dim = views[-1].shape
        whole = views[0].new_empty(layers, two, len(spans), kv_heads, longest, head_dim)
        for i, (view, length) in enumerate(zip(views, lengths, strict=True)):
            whole[:, :, i, :, :length] = view
            whole[:, :, i, :, length:] = 0  # a mask does not hide what is not finite
        if lengths[0] == longest:
            return whole, None
        hidden = torch.arange(longest, device=self._device) >= self._long(lengths)[:, None]
        return whole, self._hiding(hidden)[:, None, None]

    def _hiding(self, hidden: Tensor) -> Tensor:
        """What is added to scores to hide some."""
        return torch.zeros_like(hidden, dtype=self.slots.dtype).masked_fill_(hidden, -torch.inf)

    def _long(self, values: Sequence[int]) -> Tensor:
        return sent(values, torch.long, self._device)


def length_of(spans: Sequence[Span]) -> int:
    return sum(span.length for span in spans)


def used(rows: Sequence[Row]) -> int:
    """How many columns of their slots they have at most."""
    return max((_columns(row) for row in rows), default=0)


def _reads_little(row: Row) -> bool:
    return (len(row.ids) - row.seat.filled) * len(row.ids) <= LITTLE


def _parts(rows: Sequence[Row], takes: Sequence[int]) -> Iterator[slice]:
    """Rows that are one lane: neighbours that read in place, or that are alike."""
    start = 0
    for copies, some in groupby(rows, lambda row: row.seat.planned is None):
        stop = start + len(list(some))
        sizes = [(takes[i], _columns(rows[i]) + takes[i]) for i in range(start, stop)]
        for part in like(sizes) if copies else [slice(0, stop - start)]:
            yield slice(start + part.start, start + part.stop)
        start = stop


def like(sizes: Sequence[tuple[int, int]]) -> Iterator[slice]:
    """Cut what reads, each so many queries over so many columns, into parts of such that are alike: a part is a rectangle, as
    wide and as long as its largest, and what that adds to the reads is less than themselves, or than what one more part costs.
    """
    start, widest, longest, reads = 0, 0, 0, 0
    for i, (queries, columns) in enumerate(sizes):
        wide, long, own = max(widest, queries), max(longest, columns), queries * columns
        if i > start and (i + 1 - start) * wide * long > 2 * (reads + own) + LANE:
            yield slice(start, i)
            start, wide, long, reads = i, queries, columns, 0
        widest, longest, reads = wide, long, reads + own
    yield slice(start, len(sizes))


def _columns(row: Row) -> int:
    return row.seat.columns


def _next(row: Row, take: int) -> tuple[int, ...]:
    return row.ids[row.seat.filled : row.seat.filled + take]
