"""Low-rank products added to a module's output: written into it, and their gradients computed on a side stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.basics.policy import few_kernels
from variants.acceleration.products import elementwise
from variants.acceleration.products.shared_input import GradientSum, shared_input_of
from variants.acceleration.products.side_stream import after_event, is_tracked, on_side_stream, used
from variants.adapters.stacked_layer import StackedLayer
from variants.layer import AdapterLayer, LowRank, rows


class Product(NamedTuple):
    """scale · z Fᵀ, which a layer adds to its site's output.

    Attributes:
        z: (..., r), such as A x, or x.
        factor: F (out_features, r), such as B, or ΔW; of S stacked adapters (S, out_features, r).
        scale: such as α/r.
    """

    z: Tensor
    factor: Tensor
    scale: float = 1.0

    def added(self, y: Tensor) -> Tensor:
        """y + scale · z Fᵀ in one product and a new tensor, in the dtype of y."""
        z, factor = self.z.to(y.dtype), self.factor.to(y.dtype)
        if few_kernels(y):
            return _AddProducts.apply(y, None, [self.scale], z, factor)
        return _added(y, z, factor, self.scale)


def added(layer: AdapterLayer | StackedLayer, update: LowRank, x: Tensor, y: Tensor) -> Tensor:
    """The output of a layer that adds this low-rank update, its own, (..., out_features)."""
    if update.outer is None or multiplied_out(layer, update, x):
        return product(layer, update, x).added(y)
    z = _inner(layer, update, _dropped(layer, x))
    outer = update.outer if update.scale == 1 else update.scale * update.outer
    return elementwise.add_scaled(y, outer, _linear(z, update.B))


def product(layer: AdapterLayer | StackedLayer, update: LowRank, x: Tensor) -> Product:
    """What a layer adds, where its update has no outer factor or is multiplied out."""
    x = _dropped(layer, x)
    if multiplied_out(layer, update, x):
        return Product(x, _matrix(layer, update), update.scale)
    return Product(_inner(layer, update, x), update.B, update.scale)


def multiplied_out(layer: AdapterLayer | StackedLayer, update: LowRank, x: Tensor) -> bool:
    """Whether ΔW and a product with it take fewer multiplications than products with its factors do: where there are
    many rows x (..., in_features), and the rank is high for a matrix of that size, as VeRA's may be."""
    size = layer.size if isinstance(layer, StackedLayer) else 1
    (rank, fan_in), fan_out = update.A.shape[-2:], update.B.shape[-2]
    count = x.numel() // fan_in
    return (size * rank + count) * fan_in * fan_out < count * rank * (fan_in + fan_out)


def _matrix(layer: AdapterLayer | StackedLayer, update: LowRank) -> Tensor:
    """ΔW less its scale, (out_features, in_features); of S stacked adapters that do not share it (S, ...)."""
    for factor in (update.A, update.B, update.inner, update.outer):
        if factor is not None:
            used(factor)  # another call of the module, of fewer rows, may leave its gradient to the side stream
    B = update.B
    if update.inner is not None:
        B = B @ update.inner if _has_matrix(layer, update) else B * update.inner.unsqueeze(-2)
    delta = B @ update.A
    return delta if update.outer is None else update.outer.unsqueeze(-1) * delta


def _dropped(layer: AdapterLayer | StackedLayer, x: Tensor) -> Tensor:
    own = getattr(layer, "first", layer)  # of stacked layers, which have dropout in common
    return own.dropout(x) if own.drops else x


def _inner(layer: AdapterLayer | StackedLayer, update: LowRank, x: Tensor) -> Tensor:
    """diag(inner) · A x (..., r)."""
    z = project(x, update.A)
    if update.inner is None:
        return z
    return _linear(z, update.inner) if _has_matrix(layer, update) else elementwise.scale(update.inner, z)


def _has_matrix(layer: AdapterLayer | StackedLayer, update: LowRank) -> bool:
    return layer.inner_is_matrix if isinstance(layer, StackedLayer) else update.inner.ndim == 2


def _linear(x: Tensor, matrix: Tensor) -> Tensor:
    """x Mᵀ, with a matrix for each of S parts of the rows where there are S matrices."""
    if matrix.ndim == 2:
        return F.linear(x, matrix)
    return (_rows(x, matrix) @ matrix.mT).view(*x.shape[:-1], matrix.shape[-2])


def project(x: Tensor, A: Tensor) -> Tensor:
    """z = x Aᵀ: (..., in_features) and (r, in_features) give (..., r).

    With a matrix for each of S parts of the rows: (S·B, ..., in_features) and (S, r, in_features) give (S·B, ..., r).
    """
    if x.dtype != A.dtype or not few_kernels(x):
        return _linear(x, A)
    reading = shared_input_of(x)
    shares = reading is not None and reading.sum is not None
    return _Project.apply(reading.x.view_as(x), A, reading.sum) if shares else _Project.apply(x, A, None)


def add_products(y: Tensor, spans: Sequence[tuple[int, int]], products: Sequence[Product]) -> Tensor:
    """``y`` with each product added to its span of output features; ``y`` must not be needed any more.

    Neither forward nor backward pass copies ``y`` or its gradient, however many spans there are.

    Args:
        y: (..., out_features) of a whole module, as it comes out of it.
        spans: (start, stop) of each product in the last dimension.
    """
    scales = [product.scale for product in products]
    pairs = [tensor.to(y.dtype) for product in products for tensor in (product.z, product.factor)]
    if not torch.is_grad_enabled():
        return _add_into(y, spans, scales, pairs)
    return _AddProducts.apply(y, list(spans), scales, *pairs)


def _add_into(y: Tensor, spans: Sequence[tuple[int, int]], scales: Sequence[float], pairs: Sequence[Tensor]) -> Tensor:
    for (start, stop), scale, z, factor in zip(spans, scales, pairs[::2], pairs[1::2], strict=True):
        part = _rows(y, factor)[..., start:stop]
        add = part.addmm_ if factor.ndim == 2 else part.baddbmm_
        add(_rows(z, factor), factor.mT, alpha=scale)
    return y


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, sum: GradientSum | None) -> Tensor:
        ctx.sum, ctx.uses, ctx.values = sum, used(A), sum.again if sum else lambda x: x
        needed = () if not ctx.needs_input_grad[1] else (x,) if sum is None else sum.keep()
        ctx.save_for_backward(A, *needed)
        early = is_tracked(A) or isinstance(A, nn.Parameter)  # it was there before x
        ready = sum.ready if sum and early else None
        return after_event(ready, x.device, lambda: _rows(x, A) @ A.mT).view(*x.shape[:-1], A.shape[-2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (A, *kept), found = ctx.saved_tensors, None
        of_z = _rows(gradient, A)
        if ctx.needs_input_grad[1]:
            found = on_side_stream(
                ctx.uses, lambda: of_z.mT @ ctx.values(*kept).reshape(*of_z.shape[:-1], A.shape[-1]), of_z, *kept
            )
        if ctx.needs_input_grad[0] and ctx.sum:
            ctx.sum.add(of_z, A)
        elif ctx.needs_input_grad[0]:
            return (of_z @ A).view(*gradient.shape[:-1], A.shape[-1]), found, None
        return None, found, None


class _AddProducts(torch.autograd.Function):
    """Without ``spans`` one product is added to all features, in a new tensor."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, spans: list[tuple[int, int]] | None, scales: list[float], *pairs: Tensor
    ) -> Tensor:
        ctx.spans, ctx.scales = spans or [(0, y.shape[-1])], scales
        ctx.uses = [used(factor) for factor in pairs[1::2]]
        ctx.save_for_backward(*pairs)
        if spans is None:
            return _added(y, *pairs, scales[0])
        # the same memory: what made y does not need its values for its gradient
        return _add_into(y.detach(), spans, scales, pairs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        pairs, found = ctx.saved_tensors, []
        for number, ((start, stop), scale) in enumerate(zip(ctx.spans, ctx.scales, strict=True)):
            z, factor = pairs[2 * number : 2 * number + 2]
            part = _rows(gradient, factor)[..., start:stop]
            wants_z, wants_factor = ctx.needs_input_grad[3 + 2 * number : 5 + 2 * number]
            of_factor = _factor_gradient(part, z, scale)
            found.append(_scaled(part, factor, scale).view_as(z) if wants_z else None)
            found.append(on_side_stream(ctx.uses[number], of_factor, part, z) if wants_factor else None)
        return gradient, None, None, *found


def _rows(tensor: Tensor, matrix: Tensor) -> Tensor:
    """(..., n) as rows (N, n) for one matrix, and as (S, N/S, n) for S of them."""
    flat = rows(tensor)
    return flat if matrix.ndim == 2 else flat.unflatten(0, (len(matrix), -1))


def _added(y: Tensor, z: Tensor, factor: Tensor, scale: float) -> Tensor:
    add = torch.addmm if factor.ndim == 2 else torch.baddbmm
    return add(_rows(y, factor), _rows(z, factor), factor.mT, alpha=scale).view_as(y)


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, without a kernel for the scale."""
    nothing = a.new_empty(()).expand(*a.shape[:-1], b.shape[-1])
    return (torch.addmm if a.ndim == 2 else torch.baddbmm)(nothing, a, b, beta=0, alpha=scale)


def _factor_gradient(part: Tensor, z: Tensor, scale: float) -> Callable[[], Tensor]:
    return lambda: _scaled(part.mT, z.reshape(*part.shape[:-1], z.shape[-1]), scale)
