"""Who is live, and in which slot each of them writes."""

from __future__ import annotations

from torch import Tensor

from forethought.engine.layout import Layout, used
from forethought.engine.rows import Row


class Seats:
    """First in the slots are those that write (`decoding`), then those that read (`reading`). Those whose prompt is known to
    its end (`ready`) have a slot once they write.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.decoding: list[Row] = []
        self.reading: list[Row] = []
        self.ready: list[Row] = []

    @property
    def live(self) -> list[Row]:
        return self.decoding + self.reading + self.ready

    def write(self, through: int) -> None:
        """The first `through` of those that read write from now on, and those that came ready. One that still reads makes
        room.
        """
        done, self.reading[:through] = self.reading[:through], []
        if not done and not self.ready:
            return
        self.decoding += done
        slot = len(self.decoding)
        self.layout.slots.reserve(len(self.live), 1, used(self.live))
        if self.ready and self.reading:
            self._move(self.reading[0], slot, slot + len(self.ready))
        self.decoding += self.ready
        self.ready = []
        self.layout.joined()

    def remove(self, row: Row) -> None:
        """Free a row's slot, and close the gap with the last row that writes and the last that reads."""
        if row in self.ready:
            self.ready.remove(row)
            return
        writes, slot = row in self.decoding, self._slot(row)
        if row.error is not None:
            self.layout.slots.clear(slot)
        if writes:
            slot = self._fill(slot, self.decoding, 0)
            if self.reading:
                self._move(self.reading[-1], len(self.decoding) + len(self.reading), slot)
                self.reading.insert(0, self.reading.pop())
        else:
            self._fill(slot, self.reading, len(self.decoding))
        self.layout.left()

    def keys_values(self, row: Row) -> Tensor:
        """What a row has computed itself: [layers, 2, kv_heads, tokens, head_dim]."""
        place = row.seat
        return self.layout.slots.row(self._slot(row), place.column(place.tail), place.columns)

    def _slot(self, row: Row) -> int:
        return self.decoding.index(row) if row in self.decoding else len(self.decoding) + self.reading.index(row)

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
            self.layout.slots.move(source, target, row.seat.columns)
