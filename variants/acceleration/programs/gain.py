"""Outputs times a gain of each feature, and both gradients, by Triton programs that read everything once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 64, 128
"""Of the tile of a program: small enough for registers."""
PER_PROGRAM = 512
"""Rows of which a program adds up the gain's gradient."""
LEAST = tl.constexpr(2.0**-64)
"""Gains that are undone are at least this far from 0. A power of two keeps all digits of u, and bf16 and fp32 have the
exponents for it; of fp16 nothing is undone."""


def gained(u: Tensor, h: Tensor, again: Callable[[], Tensor] | None = None, undo: bool = False) -> Tensor:
    """(1 + h) ⊙ u: (N, n) and (n) give (N, n), on a GPU; sums in fp32.

    The gradient of h needs u, which is kept where nothing is said.

    Args:
        again: gives u in the backward pass, made from what is kept elsewhere anyway; nothing large is kept here.
        undo: the result is kept instead, and u found from it: for free where whoever reads the result keeps it too and
            nobody writes into it.
    """
    undo = undo and again is None and u.dtype in (torch.bfloat16, torch.float32)
    return _Gained.apply(u, h, again, undo)


class _Gained(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor, again: Callable[[], Tensor] | None, undo: bool) -> Tensor:
        u, wants_h = u.contiguous(), ctx.needs_input_grad[1]
        y = torch.empty_like(u)
        rows, columns = u.shape
        _forward[(triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))](u, h, y, rows, columns, undo, ROWS, COLUMNS)
        ctx.again, ctx.undo = (again if wants_h else None), undo
        ctx.h = h.detach()  # small: gradient checkpointing computes a block again up to what is saved last
        if wants_h and again is None:
            ctx.save_for_backward(y if undo else u)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        h, gradient = ctx.h, gradient.contiguous()
        of_u, (rows, columns) = torch.empty_like(gradient), gradient.shape
        if not ctx.needs_input_grad[1]:
            tiles = triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)
            _forward[tiles](gradient, h, of_u, rows, columns, ctx.undo, ROWS, COLUMNS)
            return of_u, None, None, None
        kept = ctx.again() if ctx.again else ctx.saved_tensors[0]
        parts = torch.empty(triton.cdiv(rows, PER_PROGRAM), columns, dtype=torch.float32, device=h.device)
        _backward[(len(parts), triton.cdiv(columns, COLUMNS))](
            gradient, kept, h, of_u, parts, rows, columns, ctx.undo, PER_PROGRAM, ROWS, COLUMNS
        )
        return of_u, parts.sum(0).to(h.dtype), None, None


@triton.jit
def _forward(u, h, y, rows, columns, undone: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there, place = (row < rows) & (column < columns), row.to(tl.int64) * columns + column
    gain = 1 + tl.load(h + column, mask=column < columns, other=0.0).to(tl.float32)
    if undone:  # the same below
        gain = tl.where(tl.abs(gain) < LEAST, tl.where(gain < 0, -LEAST, LEAST), gain)
    x = tl.load(u + place, mask=there, other=0.0).to(tl.float32)
    tl.store(y + place, (gain * x).to(y.dtype.element_ty), mask=there)


@triton.jit
def _backward(
    gradient,
    kept,
    h,
    of_u,
    parts,
    rows,
    columns,
    undone: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < columns
    gain = 1 + tl.load(h + column, mask=inside, other=0.0).to(tl.float32)
    if undone:
        gain = tl.where(tl.abs(gain) < LEAST, tl.where(gain < 0, -LEAST, LEAST), gain)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, PER_PROGRAM, ROWS):
        row = tl.program_id(0) * PER_PROGRAM + start + tl.arange(0, ROWS)[:, None]
        there, place = (row < rows) & inside, row.to(tl.int64) * columns + column
        dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        u = tl.load(kept + place, mask=there, other=0.0).to(tl.float32)
        if undone:
            u = u / gain
        total += dy * u
        tl.store(of_u + place, (gain * dy).to(of_u.dtype.element_ty), mask=there)
    sums = tl.sum(total, 0)[None, :]
    tl.store(parts + tl.program_id(0).to(tl.int64) * columns + column, sums, mask=inside)
