"""Where live requests write: a dense slot a request, so that a step reads all of them without gathering."""

from __future__ import annotations

import torch
from torch import Tensor

from forethought.engine.matrix import cast


def rounded(rows: int, columns: int) -> tuple[int, int]:
    """Grown by powers of two and by 64, so that this is rare."""
    return 1 << max(rows - 1, 0).bit_length(), -(-columns // 64) * 64


def tokens_of(rows: int, columns: int) -> int:
    """How many tokens the slots of so many rows hold, where the longest needs so many columns."""
    rows, columns = rounded(rows, columns)
    return rows * columns


class Slots:
    """Keys and values [layers, 2, rows, kv_heads, columns, head_dim], grown as needed.

    A column is any token's: positions are in the keys already. What no live request has written is finite, so that a
    mask hides it.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self._kv = torch.zeros(layers, 2, 0, kv_heads, 0, head_dim, device=device, dtype=dtype)
        self.layers, self._flat = self._kv.unbind(), self._kv.view(layers, -1, head_dim).unbind()

    @property
    def tokens(self) -> int:
        return self._kv.shape[2] * self._kv.shape[4]

    def reserve(self, rows: int, columns: int, used: int, most: int = 0) -> bool:
        """Make room for so many live rows, keeping the `used` columns that they have. True if it moved, so that places have to
        be told anew. What grows in one direction gives back what is not needed in the other. Rows that go on get room ahead,
        up to the `most` columns that any of them may come to.
        """
        layers, _, had, kv_heads, room, head_dim = self._kv.shape
        if rows <= had and columns <= room:
            return False
        more_rows, more_columns = rounded(rows, max(columns, used))
        if rows <= had:
            more_columns = max(more_columns, min(2 * room, room + 512, rounded(rows, most)[1]))
        new = self._kv.new_zeros(layers, 2, more_rows, kv_heads, more_columns, head_dim)
        rows, columns = min(had, more_rows), min(room, used)
        new[:, :, :rows, :, :columns] = self._kv[:, :, :rows, :, :columns]
        self._kv, self.layers, self._flat = new, new.unbind(), new.view(layers, -1, head_dim).unbind()
        return True

    def places(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Where `write` puts tokens of these rows and columns: [tokens * 2 * kv_heads]."""
        _, _, had, kv_heads, room, _ = self._kv.shape
        blocks = torch.arange(2, device=rows.device)[:, None] * had * kv_heads + torch.arange(
            kv_heads, device=rows.device
        )
        return ((blocks.view(1, -1) + rows[:, None] * kv_heads) * room + columns[:, None]).view(-1)

    def write(self, index: int, places: Tensor, kv: Tensor) -> None:
        """Keys and values [tokens, 2 * kv_heads * head_dim] of one layer."""
        self._flat[index].index_copy_(0, places, cast(kv, self.dtype).reshape(len(places), -1))

    def window(self, first: int, rows: int, length: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Views a layer: keys [rows * kv_heads, head_dim, length] and values [rows * kv_heads, length, head_dim]."""
        both = self._kv[:, :, first : first + rows, :, :length].flatten(2, 3)
        return both[:, 0].mT.unbind(), both[:, 1].unbind()

    def row(self, row: int, start: int, stop: int) -> Tensor:
        """A view of some columns: [layers, 2, kv_heads, columns, head_dim]."""
        return self._kv[:, :, row, :, start:stop]

    def move(self, source: int, target: int, columns: int) -> None:
        self.row(target, 0, columns).copy_(self.row(source, 0, columns))

    def clear(self, row: int) -> None:
        """Forget what may be poison to the next: a mask does not hide what is not finite."""
        self._kv[:, :, row].zero_()
