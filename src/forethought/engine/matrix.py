"""Matrices of weights: plain ones, laid out for the processor, or in eight bits with a scale an output."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FEW = 8  # rows: with more of them a product of floats is faster, also if its matrix has to be made first
BLOCK = 16  # inputs: torch's product in eight bits reads whole blocks, also behind the end of a row


@dataclass(frozen=True, slots=True)
class Int8:
    """`rows` [outputs, inputs] in eight bits and `scales` [outputs]: a single stream, which waits for memory, reads a quarter.

    The nearest of 255 values an output; inputs are padded with zeros to whole blocks. Where there are few rows, or the
    processor computes in bfloat16, activations are rounded to that; on others logits differ between few rows and many. What
    all this costs is measured in `docs/engine.md`.
    """

    rows: Tensor
    scales: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Int8:
        """From a matrix [inputs, outputs]."""
        scales = matrix.abs().amax(0).clamp_min(1e-12) / 127
        rows = (matrix / scales).round().to(torch.int8).t()
        return cls(F.pad(rows, (0, -rows.shape[1] % BLOCK)).contiguous(), scales)

    def times(self, x: Tensor) -> Tensor:
        if padding := self.rows.shape[1] - x.shape[1]:
            x = F.pad(x, (0, padding))
        if len(x) > FEW:
            kind = torch.bfloat16 if has_bfloat16() else x.dtype  # which holds eight bits exactly
            return torch.mm(x.to(kind), self.rows.t().to(kind)).to(x.dtype).mul_(self.scales)
        found: Tensor = torch.ops.aten._weight_int8pack_mm(x.bfloat16(), self.rows, self.scales.bfloat16())
        return found.to(x.dtype)


PACKED = 1 << 17  # entries: with fewer of them a call of oneDNN costs more than its layout saves
HEIGHT = 64  # rows for which the layout is chosen; other heights are as fast with it


@dataclass(frozen=True, slots=True)
class Packed:
    """A matrix in the blocks in which oneDNN reads it, made once: `torch.mm` lays out its operands anew in each product.

    Measured on Zen 4 (576 to 3,072): half to a quarter of the time of `torch.mm` up to 16 rows, two thirds or less at 64, in
    fp32 and in bfloat16. Of Zen 4's instructions only AVX2 allowed: three quarters or less up to 64 rows.
    """

    blocks: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Packed:
        """From a matrix [inputs, outputs] on the CPU."""
        return cls(torch.ops.mkldnn._reorder_linear_weight(matrix.t().contiguous(), HEIGHT))

    @property
    def dtype(self) -> torch.dtype:
        return self.blocks.dtype

    @property
    def shape(self) -> tuple[int, int]:
        outputs, inputs = self.blocks.shape
        return inputs, outputs

    def times(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(cast(x, self.dtype), self.blocks, bias, "none", [], "")
        return found


Matrix = Tensor | Packed | Int8


@functools.cache
def has_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this processor."""
    return hasattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported") and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def packed(matrix: Tensor) -> Matrix:
    """The matrix as its processor reads it fastest, where torch has oneDNN and oneDNN computes in its type."""
    pays = matrix.device.type == "cpu" and matrix.numel() >= PACKED
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and (matrix.dtype == torch.float32 or has_bfloat16())
    return Packed.of(matrix) if pays and known else matrix


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, which costs two microseconds also where there is nothing to do."""
    return x if x.dtype is dtype else x.to(dtype)


def times(x: Tensor, matrix: Matrix, bias: Tensor | None = None) -> Tensor:
    """x @ matrix [inputs, outputs] + bias, in the matrix's type."""
    if isinstance(matrix, Int8):
        return matrix.times(x) if bias is None else matrix.times(x).add_(bias)
    if isinstance(matrix, Packed):
        return matrix.times(x, bias)
    x = cast(x, matrix.dtype)
    return torch.mm(x, matrix) if bias is None else torch.addmm(bias, x, matrix)


def add_times(total: Tensor, x: Tensor, matrix: Matrix) -> None:
    """Add x @ matrix to `total`, in place and in the type of `total`."""
    if not isinstance(matrix, Tensor) or matrix.dtype != total.dtype:
        total.add_(times(x, matrix))
    else:
        total.addmm_(x, matrix)
