"""Varlen attention on a CPU: within the rows of a packed batch (`modules.data.packing`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.acceleration.basics.torch_private import softmax_backward


class Places(NamedTuple):
    """The N tokens of packed rows as padded groups of rows of similar lengths, for attention with some heads.

    Attributes:
        heads: of the attention.
        first: (rows,) the first token of each row.
        order: (rows,) the rows as the groups have them, one after the other.
        biases: of each group of rows of similar lengths, (rows * heads, 1, T): 0 at a token, elsewhere -inf. Products
            cost as much for a short row as for the group's longest, of T tokens. The groups have M places in all.
        index: (N * heads,) places of the tokens' parts, one for each head, among the M.
        source: (M,) the part that is found at each place; where there is none, one of the row's last.
        real: (M, 1) 1 at a token, elsewhere 0.
    """

    heads: int
    first: Tensor
    order: Tensor
    biases: list[Tensor]
    index: Tensor
    source: Tensor
    real: Tensor

    @classmethod
    def of(cls, lengths: Tensor, heads: int) -> Places:
        """The places of rows of these lengths (rows,)."""
        many = lengths.numpy()  # whose operations on little cost less than PyTorch's
        first, head = many.cumsum() - many, np.arange(heads)[:, None]
        order, sizes = _by_length(many)
        index, sources, reals, biases, before = np.empty((many.sum(), heads), np.int64), [], [], [], 0
        for rows in np.split(order, sizes):
            own, row = many[rows][:, None], np.arange(len(rows))[:, None, None]
            place = np.arange(own.max())
            token, there = first[rows][:, None] + np.minimum(place, own - 1), place < own
            index[token[there]] = (before + (row * heads + head) * len(place) + place).transpose(0, 2, 1)[there]
            sources.append((token[:, None] * heads + head).ravel())
            reals.append(there.repeat(heads, 0).astype(np.float32))
            bias = torch.from_numpy(np.where(reals[-1] == 0, np.float32(-np.inf), np.float32(0)))
            biases.append(bias.unsqueeze(1))
            before += bias.numel()
        real = np.concatenate([real.ravel() for real in reals])[:, None]
        arrays = first, order, index.ravel(), np.concatenate(sources), real
        first, order, index, source, real = map(torch.from_numpy, arrays)
        return cls(heads, first, order, biases, index, source, real)

    def apart(self, tokens: Tensor) -> Tensor:
        """(N, heads * d) -> (M, d)."""
        return tokens.reshape(len(self.index), -1).index_select(0, self.source)

    def together(self, parts: Tensor) -> Tensor:
        """(M, d) -> (N, heads * d)."""
        return parts.index_select(0, self.index).view(len(self.index) // self.heads, -1)

    def asked(self, queries: Tensor) -> Tensor:
        """(rows, heads * d) -> (rows * heads, d), in the order of the groups."""
        return queries.index_select(0, self.order).view(len(self.order) * self.heads, -1)

    def answered(self, parts: Tensor) -> Tensor:
        """(rows * heads, d) in the order of the groups -> (rows, heads * d)."""
        return parts.view(len(self.order), -1).index_select(0, self.order.argsort())

    def each(self, parts: Tensor) -> list[Tensor]:
        """(M, d) as (rows * heads, T, d) of each group; (rows * heads, d) of single tokens likewise, T = 1."""
        shapes = [(len(bias), bias.shape[2] if len(parts) == len(self.source) else 1) for bias in self.biases]
        split = parts.split([many * width for many, width in shapes])
        return [part.view(*shape, -1) for part, shape in zip(split, shapes, strict=True)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, scale: float, dropout: float, first: bool) -> Tensor:
        """Attention of tokens (N, heads * d), the queries with ``first`` those of the rows' first tokens."""
        return attention(query, key, value, self, scale, dropout)


def _by_length(lengths: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The rows in an order, and where its groups part: longer and shorter rows, where that spares a seventh of the
    products."""
    order = np.argsort(-lengths, kind="stable")
    falling, rows = lengths[order], len(lengths)
    count = np.arange(1, rows)
    area = count * falling[0] ** 2 + (rows - count) * falling[1:] ** 2
    parted = rows > 1 and area.min() <= rows * falling[0] ** 2 * 6 / 7
    return order, [int(area.argmin()) + 1] if parted else []


class _Attention(torch.autograd.Function):
    """Softmax attention within rows. Products of many small matrices are fast where none of them is transposed by the
    product itself, which is why it is written out, with its gradient."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, dropout: float
    ) -> Tensor:
        ctx.places, ctx.scale, ctx.all = places, scale, len(query) == len(key)
        q = places.apart(query) if ctx.all else places.asked(query)
        k, v = places.apart(key), places.apart(value)
        mixed, weights, kept = torch.empty_like(q), [], []
        for bias, own_q, own_k, own_v, into in zip(places.biases, *map(places.each, (q, k, v, mixed)), strict=True):
            scores = torch.baddbmm(bias.to(q.dtype), own_q, own_k.transpose(1, 2).contiguous(), alpha=scale)
            weights.append(torch.softmax(scores, -1).to(q.dtype))
            kept.append(F.dropout(torch.ones_like(weights[-1]), dropout) if dropout else None)
            torch.bmm(_dropped(weights[-1], kept[-1]), own_v, out=into)
        ctx.save_for_backward(q, k, v, *weights, *kept)
        return places.together(mixed) if ctx.all else places.answered(mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        places, (q, k, v, *saved) = ctx.places, ctx.saved_tensors
        weights, kept = saved[: len(places.biases)], saved[len(places.biases) :]
        of_mixed = places.apart(gradient).mul_(places.real) if ctx.all else places.asked(gradient)
        of_q, of_k, of_v = (torch.empty_like(x) for x in (q, k, v))
        each = map(places.each, (q, k, v, of_mixed, of_q, of_k, of_v))
        for w, keep, own_q, own_k, own_v, of, into_q, into_k, into_v in zip(weights, kept, *each, strict=True):
            of_w = torch.bmm(of, own_v.transpose(1, 2).contiguous())
            torch.bmm(_dropped(w, keep).transpose(1, 2), of, out=into_v)
            if keep is not None:
                of_w *= keep
            of_scores = softmax_backward(of_w, w).mul_(ctx.scale)
            torch.bmm(of_scores, own_k, out=into_q)
            torch.bmm(of_scores.transpose(1, 2), own_q, out=into_k)
        of_query = places.together(of_q) if ctx.all else places.answered(of_q)
        return of_query, places.together(of_k), places.together(of_v), None, None, None


def _dropped(weights: Tensor, kept: Tensor | None) -> Tensor:
    return weights if kept is None else weights * kept


def attention(query: Tensor, key: Tensor, value: Tensor, places: Places, scale: float, dropout: float = 0.0) -> Tensor:
    """Softmax attention within rows, without double backward.

    Args:
        query: (N, d), or (rows, d), of the first tokens alone; the result has its shape.
        key, value: (N, d).
        scale: of the products of queries and keys.
        dropout: of the weights.
    """
    return _Attention.apply(query, key, value, places, scale, dropout)
