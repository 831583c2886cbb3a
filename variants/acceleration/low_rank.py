"""Low-rank products added to a module's output: written into it, and their gradients computed beside the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.policy import few_kernels, vmapped
from variants.acceleration.shared_input import GradientSum, reading_of
from variants.acceleration.side_stream import beside, since, used


class Product(NamedTuple):
    """scale · z Fᵀ, which a layer adds to its site's output.

    Attributes:
        z: (..., r), such as A x; of stacked adapters (S, ..., r).
        factor: F (out_features, r), such as B; of stacked adapters (S, out_features, r).
        scale: such as α/r.
    """

    z: Tensor
    factor: Tensor
    scale: float = 1.0

    def added(self, y: Tensor) -> Tensor:
        """y + scale · z Fᵀ in one product and a new tensor, in the dtype of y."""
        z, factor = self.z.to(y.dtype), self.factor.to(y.dtype)
        if vmapped():
            return _EachAdded.apply(y, z, factor, self.scale)
        own = few_kernels(y)
        return _AddProducts.apply(y, None, [self.scale], z, factor) if own else _added(y, z, factor, self.scale)


def project(x: Tensor, A: Tensor) -> Tensor:
    """z = x Aᵀ: (..., in_features) and (r, in_features) give (..., r).

    With a matrix of its own for each part of x: (S, ..., in_features) and (S, r, in_features) give (S, ..., r).
    """
    if x.dtype != A.dtype:
        return F.linear(x, A)
    if vmapped():
        return _EachProject.apply(x, A)
    if A.ndim == 2 and not few_kernels(x):
        return F.linear(x, A)
    reading = reading_of(x)
    return _Project.apply(reading.x.view_as(x), A, reading.sum) if reading else _Project.apply(x, A, None)


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
        needed = () if not ctx.needs_input_grad[1] else (x,) if sum is None else sum.keep(x)
        ctx.save_for_backward(A, *needed)
        early = hasattr(A, "uses") or isinstance(A, nn.Parameter)  # it was there before x
        ready = sum.ready if sum and early else None
        return since(ready, x.device, lambda: _rows(x, A) @ A.mT).view(*x.shape[:-1], A.shape[-2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (A, *kept), found = ctx.saved_tensors, None
        rows = _rows(gradient, A)
        if ctx.needs_input_grad[1]:
            found = beside(
                ctx.uses, lambda: rows.mT @ ctx.values(*kept).reshape(*rows.shape[:-1], A.shape[-1]), rows, *kept
            )
        if ctx.needs_input_grad[0] and ctx.sum:
            ctx.sum.add(rows, A)
        elif ctx.needs_input_grad[0]:
            return (rows @ A).view(*gradient.shape[:-1], A.shape[-1]), found, None
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
            found.append(_scaled(part, factor, scale).view_as(z) if wants_z else None)
            found.append(beside(ctx.uses[number], _factor_gradient(part, z, scale), part, z) if wants_factor else None)
        return gradient, None, None, *found


class _EachProject(torch.autograd.Function):
    """:func:`project` where ``vmap`` hides that there is a matrix for each part."""

    @staticmethod
    def forward(x: Tensor, A: Tensor) -> Tensor:
        return F.linear(x, A)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Nothing: the rule below is differentiated itself."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, x: Tensor, A: Tensor) -> tuple[Tensor, int]:
        return project(_each(info, in_dims[0], x), A if in_dims[1] is None else _each(info, in_dims[1], A)), 0


class _EachAdded(torch.autograd.Function):
    """:meth:`Product.added` where ``vmap`` hides that there is a factor for each part."""

    @staticmethod
    def forward(y: Tensor, z: Tensor, factor: Tensor, scale: float) -> Tensor:
        return _added(y, z, factor, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Nothing: the rule below is differentiated itself."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple, y: Tensor, z: Tensor, factor: Tensor, scale: float) -> tuple[Tensor, int]:
        y, z, factor = (_each(info, dim, t) for dim, t in zip(in_dims, (y, z, factor), strict=False))
        return Product(z, factor, scale).added(y), 0


def _each(info: Any, dim: int | None, tensor: Tensor) -> Tensor:
    """The parts of a tensor as its first dimension; the very tensor, with what it carries, where they are."""
    if dim is None:
        return tensor.expand(info.batch_size, *tensor.shape)
    return tensor.movedim(dim, 0) if dim else tensor


def _rows(tensor: Tensor, matrix: Tensor) -> Tensor:
    """(..., n) as rows (N, n) for one matrix, and as (S, N/S, n) for S of them."""
    rows = tensor.flatten(0, -2)
    return rows if matrix.ndim == 2 else rows.unflatten(0, (len(matrix), -1))


def _added(y: Tensor, z: Tensor, factor: Tensor, scale: float) -> Tensor:
    add = torch.addmm if factor.ndim == 2 else torch.baddbmm
    return add(_rows(y, factor), _rows(z, factor), factor.mT, alpha=scale).view_as(y)


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, without a kernel for the scale."""
    nothing = a.new_empty(()).expand(*a.shape[:-1], b.shape[-1])
    return (torch.addmm if a.ndim == 2 else torch.baddbmm)(nothing, a, b, beta=0, alpha=scale)


def _factor_gradient(part: Tensor, z: Tensor, scale: float) -> Callable[[], Tensor]:
    return lambda: _scaled(part.mT, z.reshape(*part.shape[:-1], z.shape[-1]), scale)
