"""Products with a trained vector of features, whose gradient, a sum over all tokens, is computed on the side stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from variants.acceleration.basics.policy import few_kernels, has_triton, large
from variants.acceleration.products.postponed import is_postponing, postponed
from variants.acceleration.products.side_stream import on_side_stream, used
from variants.layer import rows

# where our own functions do not pay, addcmul does not either: the gradients PyTorch has for it take two products each


def scale(v: Tensor, u: Tensor) -> Tensor:
    """v ⊙ u: (n) and (..., n) give (..., n); (S, n) is a vector for each of S parts of the rows."""
    if v.ndim == 2:
        return (v[:, None] * u.reshape(len(v), -1, u.shape[-1])).view_as(u)
    return _Scale.apply(None, v, u) if _together(v, u) else v * u


def add_scaled(y: Tensor, v: Tensor, u: Tensor) -> Tensor:
    """y + v ⊙ u: (..., n), (n) and (..., n) give (..., n); (S, n) as in :func:`scale`."""
    if v.ndim == 2:
        return y + scale(v, u)
    return _Scale.apply(y, v, u) if _together(y, v, u) else y + v * u


def add_gain(
    u: Tensor, h: Tensor, bias: Tensor | None, again: Callable[[], Tensor] | None = None, undo: bool = False
) -> Tensor:
    """u + h ⊙ (u - bias): (..., n), (n) and a frozen (n) give (..., n); (S, n) as in :func:`scale`.

    A large ``u`` may stand for it where its reader has said so (`postponed.py`).

    Args:
        again, undo: how the gradient of h gets a large u, which is kept else (`programs/gain.py`).
    """
    if bias is None and h.ndim == 1 and large(u) and u.dtype == h.dtype and has_triton(u):
        if is_postponing():
            return postponed(u, h)
        from variants.acceleration.programs.gain import gained

        return gained(rows(u), h, again, undo).view_as(u)
    w = u if bias is None else u - bias.detach()
    if h.ndim == 2:
        return u + scale(h, w)
    return _AddGain.apply(u, h, w.detach()) if _together(u, h, w) else u + h * w


def _together(*tensors: Tensor) -> bool:
    return few_kernels(tensors[-1]) and len({tensor.dtype for tensor in tensors}) == 1


def _summed(gradient: Tensor, factor: Tensor) -> Tensor:
    """The gradient (n) of a vector that multiplies rows of a factor (..., n)."""
    products = rows(gradient * factor)
    if products.is_cuda and products.element_size() == 2:  # whose sum over rows PyTorch does slowly
        return (products.new_ones(1, len(products)) @ products)[0]  # in fp32 too, inside the product
    return products.sum(0)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor | None, v: Tensor, u: Tensor) -> Tensor:
        ctx.save_for_backward(v, u)
        ctx.uses = used(v)
        return v * u if y is None else torch.addcmul(y, v, u)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        v, u = ctx.saved_tensors
        wants_y, wants_v, wants_u = ctx.needs_input_grad
        found = on_side_stream(ctx.uses, lambda: _summed(gradient, u), gradient, u) if wants_v else None
        return gradient if wants_y else None, found, gradient * v if wants_u else None


class _AddGain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, h: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(h, w)
        ctx.uses = used(h)
        return torch.addcmul(u, h, w)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        h, w = ctx.saved_tensors
        wants_u, wants_h, _ = ctx.needs_input_grad
        found = on_side_stream(ctx.uses, lambda: _summed(gradient, w), gradient, w) if wants_h else None
        return torch.addcmul(gradient, gradient, h) if wants_u else None, found, None
