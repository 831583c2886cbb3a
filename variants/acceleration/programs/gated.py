"""Gated activations, act(gate) ⊙ up, each with a gain of its features, by Triton programs that read everything once.

Liger has gated activations too, without gains, and its backward pass writes the gradients over the gate and what it
gates, behind autograd's back: whoever keeps these tensors for another gradient would find something else there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 16, 128
"""Of the tile of a program: of each tensor a thread reads 16 bytes of bf16 twice."""
PER_PROGRAM = 128
"""Rows of which a program adds up the gains' gradients."""
TWICE_ROOT = tl.constexpr(2 * (2 / 3.141592653589793) ** 0.5)
CUBIC = tl.constexpr(0.044715)
"""GELU's tanh form is x σ(w) with w = TWICE_ROOT (x + CUBIC x³), as SiLU is x σ(x)."""


def silu_gated(gate: Tensor, up: Tensor, h: Tensor | None = None, k: Tensor | None = None) -> Tensor:
    """SiLU((1 + h) ⊙ gate) ⊙ (1 + k) ⊙ up on a GPU, (..., n), computed in fp32.

    Args:
        gate, up: (..., n).
        h, k: (n); None for no gain.
    """
    return _gated(gate, up, h, k, False)


def gelu_gated(gate: Tensor, up: Tensor, h: Tensor | None = None, k: Tensor | None = None) -> Tensor:
    """As :func:`silu_gated` with GELU in its tanh form."""
    return _gated(gate, up, h, k, True)


def _gated(gate: Tensor, up: Tensor, h: Tensor | None, k: Tensor | None, gelu: bool) -> Tensor:
    if h is None and k is not None:
        h = torch.zeros_like(k)
    elif k is None and h is not None:
        k = torch.zeros_like(h)
    return _Gated.apply(gate, up, h, k, gelu)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, h: Tensor | None, k: Tensor | None, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gains, ctx.gelu = [None if gain is None else gain.detach() for gain in (h, k)], gelu
        gate, up = gate.contiguous(), up.contiguous()
        out, columns = torch.empty_like(gate), gate.shape[-1]
        rows = gate.numel() // columns
        tiles = triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS)
        _forward[tiles](gate, up, *_gains(h, k, gate), out, rows, columns, h is not None, gelu, ROWS, COLUMNS)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, gradient = (x.contiguous() for x in (*ctx.saved_tensors, gradient))
        of_gate, of_up, columns = torch.empty_like(gate), torch.empty_like(up), gate.shape[-1]
        rows, gained = gate.numel() // columns, ctx.gains[0] is not None
        per_program = PER_PROGRAM if gained else ROWS
        programs, parts = triton.cdiv(rows, per_program), gate
        if gained:
            parts = torch.empty(2, programs, columns, dtype=torch.float32, device=gate.device)
        _backward[(programs, triton.cdiv(columns, COLUMNS))](
            *(gradient, gate, up, *_gains(*ctx.gains, gate), of_gate, of_up, parts, rows, columns),
            *(gained, ctx.gelu, per_program, ROWS, COLUMNS),
        )
        of_gains = parts.sum(1).to(ctx.gains[0].dtype) if gained else (None, None)
        return of_gate, of_up, *of_gains, None


def _gains(h: Tensor | None, k: Tensor | None, instead: Tensor) -> tuple[Tensor, Tensor]:
    """Both gains, or pointers that are not followed."""
    return (instead, instead) if h is None else (h, k)


@triton.jit
def _forward(
    gate,
    up,
    h,
    k,
    out,
    rows,
    columns,
    gained: tl.constexpr,
    gelu: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < columns
    there, place = (row < rows) & inside, row.to(tl.int64) * columns + column
    x = tl.load(gate + place, mask=there, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=there, other=0.0).to(tl.float32)
    if gained:
        x *= 1 + tl.load(h + column, mask=inside, other=0.0).to(tl.float32)
        y *= 1 + tl.load(k + column, mask=inside, other=0.0).to(tl.float32)
    w = (x + x * x * x * CUBIC) * TWICE_ROOT if gelu else x
    tl.store(out + place, (x / (1 + tl.exp(-w)) * y).to(out.dtype.element_ty), mask=there)


@triton.jit
def _backward(
    gradient,
    gate,
    up,
    h,
    k,
    of_gate,
    of_up,
    parts,
    rows,
    columns,
    gained: tl.constexpr,
    gelu: tl.constexpr,
    PER_PROGRAM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = column < columns
    if gained:
        gain_of_gate = 1 + tl.load(h + column, mask=inside, other=0.0).to(tl.float32)
        gain_of_up = 1 + tl.load(k + column, mask=inside, other=0.0).to(tl.float32)
        total_of_gate = tl.zeros((ROWS, COLUMNS), tl.float32)
        total_of_up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, PER_PROGRAM, ROWS):
        row = tl.program_id(0) * PER_PROGRAM + start + tl.arange(0, ROWS)[:, None]
        there, place = (row < rows) & inside, row.to(tl.int64) * columns + column
        dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        u = tl.load(gate + place, mask=there, other=0.0).to(tl.float32)
        v = tl.load(up + place, mask=there, other=0.0).to(tl.float32)
        x, y = u, v
        if gained:
            x, y = u * gain_of_gate, v * gain_of_up
        if gelu:
            s = 1 / (1 + tl.exp(-(x + x * x * x * CUBIC) * TWICE_ROOT))
            slope = (x + x * x * x * (3 * CUBIC)) * TWICE_ROOT  # of w, times x
        else:
            s = 1 / (1 + tl.exp(-x))
            slope = x
        of_x, of_y = dy * y * s * (1 + slope * (1 - s)), dy * x * s
        if gained:
            total_of_gate += of_x * u
            total_of_up += of_y * v
            of_x, of_y = of_x * gain_of_gate, of_y * gain_of_up
        tl.store(of_gate + place, of_x.to(of_gate.dtype.element_ty), mask=there)
        tl.store(of_up + place, of_y.to(of_up.dtype.element_ty), mask=there)
    if gained:
        own = parts + tl.program_id(0).to(tl.int64) * columns + column
        tl.store(own, tl.sum(total_of_gate, 0)[None, :], mask=inside)
        other = own + tl.num_programs(0).to(tl.int64) * columns
        tl.store(other, tl.sum(total_of_up, 0)[None, :], mask=inside)
