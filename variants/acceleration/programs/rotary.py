"""Rotary positions of queries and keys by one Triton program a token, in new memory.

Liger's kernel writes into the queries and keys themselves, behind autograd's back: a method whose last operation needs
its own output for its gradient would get a wrong one without a word.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def turned(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """x ⊙ cos + (-x₂, x₁) ⊙ sin of queries and keys, x₁ and x₂ the halves of a head.

    Args:
        q: (B, heads, S, d); k: (B, kv_heads, S, d), on a GPU; they may be views, with one head's numbers side by side.
        cos, sin: (1 or B, S, d).

    Returns:
        As q and k, in memory token by token.
    """
    return _Turned.apply(q, k, cos.contiguous(), sin.contiguous())


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        return _turn(q, cos, sin, False), _turn(k, cos, sin, False)

    @staticmethod
    def backward(ctx: Any, of_q: Tensor, of_k: Tensor) -> tuple[Tensor, Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(of_q, cos, sin, True), _turn(of_k, cos, sin, True), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, back: bool) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    rows, heads, tokens, d = x.shape
    out = torch.empty(rows, tokens, heads, d, dtype=x.dtype, device=x.device).transpose(1, 2)
    per_row = cos.stride(0) if len(cos) > 1 else 0
    sizes = triton.next_power_of_2(heads), triton.next_power_of_2(d // 2)
    strides = x.stride(0), x.stride(1), x.stride(2)
    _program[(rows * tokens,)](x, out, cos, sin, *strides, per_row, tokens, heads, d, back, *sizes, num_warps=4)
    return out


@triton.jit
def _program(
    x,
    out,
    cos,
    sin,
    of_row,
    of_head,
    of_token,
    cos_of_row,
    tokens,
    heads,
    d: tl.constexpr,
    back: tl.constexpr,
    most_heads: tl.constexpr,
    half: tl.constexpr,
):
    place = tl.program_id(0).to(tl.int64)
    row, token = place // tokens, place % tokens
    head, column = tl.arange(0, most_heads)[:, None], tl.arange(0, half)[None, :]
    there = (head < heads) & (column < d // 2)
    given = x + row * of_row + token * of_token + head * of_head + column
    angles, known = row * cos_of_row + token * d + column, column < d // 2
    x1 = tl.load(given, mask=there, other=0.0).to(tl.float32)
    x2 = tl.load(given + d // 2, mask=there, other=0.0).to(tl.float32)
    c1, c2 = tl.load(cos + angles, mask=known).to(tl.float32), tl.load(cos + angles + d // 2, mask=known).to(tl.float32)
    s1, s2 = tl.load(sin + angles, mask=known).to(tl.float32), tl.load(sin + angles + d // 2, mask=known).to(tl.float32)
    if back:
        y1, y2 = x1 * c1 + x2 * s2, x2 * c2 - x1 * s1
    else:
        y1, y2 = x1 * c1 - x2 * s1, x2 * c2 + x1 * s2
    found = out + place * heads * d + head * d + column
    tl.store(found, y1.to(out.dtype.element_ty), mask=there)
    tl.store(found + d // 2, y2.to(out.dtype.element_ty), mask=there)
