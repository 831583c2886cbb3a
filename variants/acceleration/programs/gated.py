"""Gated activations, act(gate) ⊙ up, by Triton programs that read and write everything once, in new memory.

Liger has them too, but its backward pass writes the gradients over the gate and what it gates, behind autograd's back:
whoever keeps these tensors for another gradient, as DoRA's gain does, would find something else there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Numbers of a program: of each tensor a thread reads 16 bytes of bf16 at once."""
TWICE_ROOT = tl.constexpr(2 * (2 / 3.141592653589793) ** 0.5)
CUBIC = tl.constexpr(0.044715)
"""GELU's tanh form is x σ(w) with w = TWICE_ROOT (x + CUBIC x³), as SiLU is x σ(x)."""


def silu_gated(gate: Tensor, up: Tensor) -> Tensor:
    """SiLU(gate) ⊙ up, of equal shapes, on a GPU; computed in fp32."""
    return _Gated.apply(gate, up, False)


def gelu_gated(gate: Tensor, up: Tensor) -> Tensor:
    """As :func:`silu_gated` with GELU in its tanh form."""
    return _Gated.apply(gate, up, True)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _forward[(triton.cdiv(out.numel(), BLOCK),)](gate, up, out, out.numel(), gelu, BLOCK)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up, gradient = (x.contiguous() for x in (*ctx.saved_tensors, gradient))
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        programs = (triton.cdiv(gate.numel(), BLOCK),)
        _backward[programs](gradient, gate, up, of_gate, of_up, gate.numel(), ctx.gelu, BLOCK)
        return of_gate, of_up, None


@triton.jit
def _forward(gate, up, out, size, gelu: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < size
    x = tl.load(gate + place, mask=there, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=there, other=0.0).to(tl.float32)
    w = (x + x * x * x * CUBIC) * TWICE_ROOT if gelu else x
    tl.store(out + place, (x / (1 + tl.exp(-w)) * y).to(out.dtype.element_ty), mask=there)


@triton.jit
def _backward(gradient, gate, up, of_gate, of_up, size, gelu: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = place < size
    dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    x = tl.load(gate + place, mask=there, other=0.0).to(tl.float32)
    y = tl.load(up + place, mask=there, other=0.0).to(tl.float32)
    if gelu:
        s = 1 / (1 + tl.exp(-(x + x * x * x * CUBIC) * TWICE_ROOT))
        slope = (x + x * x * x * (3 * CUBIC)) * TWICE_ROOT  # of w, times x
    else:
        s = 1 / (1 + tl.exp(-x))
        slope = x
    tl.store(of_up + place, (dy * x * s).to(of_up.dtype.element_ty), mask=there)
    tl.store(of_gate + place, (dy * y * s * (1 + slope * (1 - s))).to(of_gate.dtype.element_ty), mask=there)
