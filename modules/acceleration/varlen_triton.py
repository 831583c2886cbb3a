"""Varlen attention of short rows on a GPU: one program for each row and head.

A row of at most 128 tokens fits on one of a GPU's processors as a whole, with all weights. So nothing is computed
in pieces, queries, keys and values alone are kept for the backward pass, and what is dropped is drawn there again from
the same seed.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable


@triton.jit
def _place(base, first, many, stride, head, d, T: tl.constexpr, D: tl.constexpr):
    """Where a head's parts of ``many`` tokens are, and which of (T, D) there are."""
    token, part = tl.arange(0, T)[:, None], tl.arange(0, D)[None, :]
    return base + (first + token).to(tl.int64) * stride + head * d + part, (token < many) & (part < d)


@triton.jit
def _read(base, first, many, stride, head, d, T: tl.constexpr, D: tl.constexpr):
    """A head's parts of ``many`` tokens, (T, D), with zeros where there are none."""
    place, there = _place(base, first, many, stride, head, d, T, D)
    return tl.load(place, there, 0.0)


@triton.jit
def _write(values, base, first, many, stride, head, d, T: tl.constexpr, D: tl.constexpr):
    place, there = _place(base, first, many, stride, head, d, T, D)
    tl.store(place, values, there)


@triton.jit
def _row(queries, keys, heads):
    """(head, first query, number of queries, first token, number of tokens) of this program's row."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    query, token = tl.load(queries + row), tl.load(keys + row)
    return head, query, tl.load(queries + row + 1) - query, token, tl.load(keys + row + 1) - token


@triton.jit
def _softmax(q, k, many, scale, T: tl.constexpr, PRECISION: tl.constexpr):
    """Weights (T, T) of the ``many`` keys that there are."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    scores = tl.where(tl.arange(0, T)[None, :] < many, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _kept(seed, dropout, T: tl.constexpr):
    """What dropout multiplies weights (T, T) by, the same for one seed."""
    factor = tl.full((T, T), 1.0, tl.float32)
    if dropout > 0:
        quarter: tl.constexpr = T // 4  # Philox gives four numbers at once
        place = tl.program_id(0) * (T * quarter) + tl.arange(0, T)[:, None] * quarter + tl.arange(0, quarter)[None, :]
        a, b, c, d = tl.rand4x(tl.load(seed), place)
        drawn = tl.join(tl.join(a, b), tl.join(c, d)).reshape(T, T)
        factor = tl.where(drawn < dropout, 0.0, 1 / (1 - dropout))
    return factor


@triton.jit(do_not_specialize=["scale", "dropout"])
def _forward(
    q_at, k_at, v_at, out_at, queries, keys, seed, q_stride, k_stride, v_stride, heads, d, scale, dropout,
    T: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head, query, asked, token, many = _row(queries, keys, heads)
    q = _read(q_at, query, asked, q_stride, head, d, T, D)
    k = _read(k_at, token, many, k_stride, head, d, T, D)
    v = _read(v_at, token, many, v_stride, head, d, T, D)
    weights = _softmax(q, k, many, scale, T, PRECISION) * _kept(seed, dropout, T)
    out = tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    _write(out.to(v.dtype), out_at, query, asked, heads * d, head, d, T, D)


@triton.jit(do_not_specialize=["scale", "dropout"])
def _backward(
    q_at, k_at, v_at, of_out_at, of_q_at, of_k_at, of_v_at, queries, keys, seed, q_stride, k_stride, v_stride,
    of_q_stride, of_kv_stride, heads, d, scale, dropout, T: tl.constexpr, D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head, query, asked, token, many = _row(queries, keys, heads)
    q = _read(q_at, query, asked, q_stride, head, d, T, D)
    k = _read(k_at, token, many, k_stride, head, d, T, D)
    v = _read(v_at, token, many, v_stride, head, d, T, D)
    of_out = _read(of_out_at, query, asked, heads * d, head, d, T, D)
    weights, kept = _softmax(q, k, many, scale, T, PRECISION), _kept(seed, dropout, T)
    of_v = tl.dot(tl.trans((weights * kept).to(v.dtype)), of_out, input_precision=PRECISION)
    of_weights = tl.dot(of_out, tl.trans(v), input_precision=PRECISION) * kept
    of_scores = (weights * (of_weights - tl.sum(weights * of_weights, 1)[:, None]) * scale).to(v.dtype)
    of_q = tl.dot(of_scores, k, input_precision=PRECISION)
    of_k = tl.dot(tl.trans(of_scores), q, input_precision=PRECISION)
    _write(of_q.to(v.dtype), of_q_at, query, asked, of_q_stride, head, d, T, D)
    _write(of_k.to(v.dtype), of_k_at, token, many, of_kv_stride, head, d, T, D)
    _write(of_v.to(v.dtype), of_v_at, token, many, of_kv_stride, head, d, T, D)


def _precision(dtype: torch.dtype) -> str:
    """Of products. fp32 proper is three products in TF32: as exact as PyTorch's products, and on tensor cores. ("ieee"
    does without them: 12 ms where this takes 0.4, for 96 rows of 40 to 100 tokens with 12 heads on an H100.)"""
    if dtype != torch.float32:
        return "ieee"
    return "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"


class _ShortRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor, seed: Tensor, heads: int,
        width: int, scale: float, dropout: float,
    ) -> Tensor:  # fmt: skip
        d = q.shape[1] // heads
        sizes = {
            "T": width,
            "D": max(16, triton.next_power_of_2(d)),
            "PRECISION": _precision(q.dtype),
            "num_warps": width // 16,
        }
        ctx.grid, ctx.settings = ((len(keys) - 1) * heads,), ((heads, d, scale, dropout), sizes)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        ctx.save_for_backward(q, k, v, queries, keys, seed)
        strides = q.stride(0), k.stride(0), v.stride(0)
        _forward[ctx.grid](q, k, v, out, queries, keys, seed, *strides, *ctx.settings[0], **sizes)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *rest = ctx.saved_tensors
        (N, features), (numbers, sizes) = k.shape, ctx.settings
        # side by side: whoever made all three has their gradient as one matrix (`shared_input`)
        beside = len(q) == N
        parts = k.new_empty(N, (2 + beside) * features).split(features, 1)
        of_q, of_k, of_v = parts if beside else (q.new_empty(q.shape), *parts)
        strides = [x.stride(0) for x in (q, k, v, of_q, of_k)]
        _backward[ctx.grid](q, k, v, of_out.contiguous(), of_q, of_k, of_v, *rest, *strides, *numbers, **sizes)
        return of_q, of_k, of_v, *[None] * 7


def attention(
    q: Tensor, k: Tensor, v: Tensor, queries: Tensor, keys: Tensor, heads: int, width: int, scale: float, dropout: float
) -> Tensor:
    """Softmax attention within rows, without double backward.

    Args:
        q: (M, heads * d), the queries of all rows; k, v: (N, heads * d). Of each the last dimension is contiguous.
        queries, keys: (rows + 1,) int32, where each row's queries and tokens begin, and M and N.
        width: 64 or 128, at least a row's tokens.
        scale: of the products of queries and keys.
        dropout: of the weights, from PyTorch's generator of the device.

    Returns:
        (M, heads * d), contiguous.
    """
    seed = torch.empty(1, dtype=torch.int64, device=q.device)  # where nothing is dropped it is not read
    if dropout:
        seed.random_(2**62)
    return _ShortRows.apply(q, k, v, queries, keys, seed, heads, width, scale, dropout)
