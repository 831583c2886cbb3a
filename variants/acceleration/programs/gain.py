"""Outputs times a gain of each feature, and both gradients, by Triton programs that read everything once."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 128
"""Of the tile of a program: small enough for registers."""
PER_PROGRAM = 512
"""Rows of which a program adds up the gain's gradient."""


def gained(u: Tensor, h: Tensor) -> Tensor:
    """(1 + h) ⊙ u: (N, n) and (n) give (N, n), on a GPU; sums in fp32."""
    return _Gained.apply(u, h)


class _Gained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor) -> Tensor:
        u = u.contiguous()
        ctx.save_for_backward(u, h)
        y = torch.empty_like(u)
        rows, columns = u.shape
        _forward[(triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))](u, h, y, rows, columns, ROWS, COLUMNS)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        u, h = ctx.saved_tensors
        gradient, of_u = gradient.contiguous(), torch.empty_like(u)
        rows, columns = u.shape
        parts = torch.empty(triton.cdiv(rows, PER_PROGRAM), columns, dtype=torch.float32, device=u.device)
        _backward[(len(parts), triton.cdiv(columns, COLUMNS))](
            gradient, u, h, of_u, parts, rows, columns, PER_PROGRAM, ROWS, COLUMNS
        )
        return of_u, parts.sum(0).to(h.dtype)


@triton.jit
def _forward(u, h, y, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there, place = (row < rows) & (column < columns), row.to(tl.int64) * columns + column
    gain = 1 + tl.load(h + column, mask=column < columns).to(tl.float32)
    x = tl.load(u + place, mask=there, other=0.0).to(tl.float32)
    tl.store(y + place, (gain * x).to(y.dtype.element_ty), mask=there)


@triton.jit
def _backward(
    gradient,
    u,
    h,
    of_u,
    parts,
    rows,
    columns,
    PER_PROGRAM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < columns
    gain = 1 + tl.load(h + column, mask=inside).to(tl.float32)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, PER_PROGRAM, ROWS):
        row = tl.program_id(0) * PER_PROGRAM + start + tl.arange(0, ROWS)[:, None]
        there, place = (row < rows) & inside, row.to(tl.int64) * columns + column
        dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        total += dy * tl.load(u + place, mask=there, other=0.0).to(tl.float32)
        tl.store(of_u + place, (gain * dy).to(of_u.dtype.element_ty), mask=there)
    sums = tl.sum(total, 0)[None, :]
    tl.store(parts + tl.program_id(0).to(tl.int64) * columns + column, sums, mask=inside)
