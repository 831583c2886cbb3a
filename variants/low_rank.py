"""Low-rank products added to a module's output: written into it, and their gradients computed beside the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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


def plain() -> bool:
    """Whether tensors are computed as they are: neither a compiler nor a function transform looks on."""
    return not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active()


def project(x: Tensor, A: Tensor) -> Tensor:
    """z = x Aᵀ: (..., in_features) and (r, in_features) give (..., r)."""
    if hasattr(A, "uses") and x.dtype == A.dtype and plain():
        return _Project.apply(x, A)
    return F.linear(x, A)


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


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor) -> Tensor:
        ctx.save_for_backward(x, A)
        ctx.uses = _used(A)
        return F.linear(x, A)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, A = ctx.saved_tensors
        wants_x, wants_A = ctx.needs_input_grad
        found = None
        if wants_A:
            z, rows = gradient.flatten(0, -2), x.flatten(0, -2)
            found = beside(ctx.uses, lambda: z.t() @ rows, z, rows)
        return gradient @ A if wants_x else None, found


class _AddProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, spans: list[tuple[int, int]], scales: list[float], *pairs: Tensor) -> Tensor:
        ctx.spans, ctx.scales, ctx.uses = spans, scales, [_used(factor) for factor in pairs[1::2]]
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
            found.append(beside(ctx.uses[number], _factor_gradient(part, z, scale), part, z) if wants_factor else None)
        return gradient, None, None, *found


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, without a kernel for the scale."""
    return torch.addmm(a.new_empty(()).expand(a.shape[0], b.shape[1]), a, b, beta=0, alpha=scale)


def _factor_gradient(part: Tensor, z: Tensor, scale: float) -> Callable[[], Tensor]:
    return lambda: _scaled(part.t(), z.flatten(0, -2), scale)


# ---- gradients that nothing waits for ------------------------------------------------------------------------------
_STREAMS: dict[torch.device, torch.cuda.Stream] = {}
_WAITED_FOR: list[tuple[Tensor, ...]] = []


def _used(tensor: Tensor) -> list[int] | None:
    """Count one more use of a prepared copy; its counter, or None for any other tensor."""
    uses = getattr(tensor, "uses", None)
    if uses is not None:
        uses[0] += 1
    return uses


def beside(uses: list[int] | None, compute: Callable[[], Tensor], *operands: Tensor) -> Tensor:
    """The gradient of a prepared copy, which is not needed before :func:`join`.

    While a CUDA graph is captured it goes to a branch of its own, so that the small products of adapters run beside
    the large ones of the base. Everywhere else, and for a copy that is used twice, whose gradients are added up
    before :func:`join`, it is simply computed.
    """
    if uses is None or uses[0] != 1 or not operands[0].is_cuda or not torch.cuda.is_current_stream_capturing():
        return compute()
    device = operands[0].device
    if device not in _STREAMS:
        _STREAMS[device] = torch.cuda.Stream(device)
    side = _STREAMS[device]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = compute()
    _WAITED_FOR.append((*operands, result))  # their memory is not another's before the branch has ended
    return result


def join() -> None:
    """Wait for all gradients that were computed beside the rest."""
    if _WAITED_FOR:
        device = _WAITED_FOR[0][0].device
        torch.cuda.current_stream(device).wait_stream(_STREAMS[device])
        _WAITED_FOR.clear()
