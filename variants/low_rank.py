"""Adding low-rank products to a module's output: written into it, since nothing else holds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Product(NamedTuple):
    """scale · z Fᵀ, which a layer adds to its site's output.

    Attributes:
        z: (..., r), such as A x.
        factor: F (out_features, r), such as B.
        scale: such as α/r.
    """

    z: Tensor
    factor: Tensor
    scale: float = 1.0

    def added(self, y: Tensor) -> Tensor:
        """y + scale · z Fᵀ in one product and a new tensor, in the dtype of y."""
        z, factor = self.z.to(y.dtype), self.factor.to(y.dtype)
        return torch.addmm(y.flatten(0, -2), z.flatten(0, -2), factor.t(), alpha=self.scale).view_as(y)


def add_products(y: Tensor, spans: Sequence[tuple[int, int]], products: Sequence[Product]) -> Tensor:
    """``y`` with each product added to its span of output features; ``y`` must not be needed any more.

    Neither forward nor backward pass copies ``y`` or its gradient, however many spans there are.

    Args:
        y: (..., out_features) of a whole module, as it comes out of it.
        spans: (start, stop) of each product in the last dimension.
    """
    scales = [product.scale for product in products]
    pairs = [tensor.to(y.dtype) for product in products for tensor in (product.z, product.factor)]
    return _AddProducts.apply(y, list(spans), scales, *pairs)


class _AddProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, spans: list[tuple[int, int]], scales: list[float], *pairs: Tensor) -> Tensor:
        ctx.spans, ctx.scales = spans, scales
        ctx.save_for_backward(*pairs)
        out = y.detach()  # the same memory: what made y does not need its values for its gradient
        rows = out.flatten(0, -2)
        for (start, stop), scale, z, factor in zip(spans, scales, pairs[::2], pairs[1::2], strict=True):
            rows[:, start:stop].addmm_(z.flatten(0, -2), factor.t(), alpha=scale)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        pairs = ctx.saved_tensors
        rows, found = gradient.flatten(0, -2), []
        for number, ((start, stop), scale) in enumerate(zip(ctx.spans, ctx.scales, strict=True)):
            z, factor = pairs[2 * number : 2 * number + 2]
            part = rows[:, start:stop]
            wants_z, wants_factor = ctx.needs_input_grad[3 + 2 * number : 5 + 2 * number]
            found.append(_scaled(part, factor, scale).view_as(z) if wants_z else None)
            found.append(_scaled(part.t(), z.flatten(0, -2), scale) if wants_factor else None)
        return gradient, None, None, *found


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, without a kernel for the scale."""
    return torch.addmm(a.new_empty(()).expand(a.shape[0], b.shape[1]), a, b, beta=0, alpha=scale)
