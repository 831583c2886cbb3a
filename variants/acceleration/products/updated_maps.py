"""Frozen linear maps that read one tensor, with their low-rank updates, as one operation of large batches:

    Y_i = X W_iᵀ + b_i + s_i ((X Aᵀ)_i ⊙ e_i) B_iᵀ        A: the A_i of all maps, one below the other

One product makes all A_i x, each update is there before the frozen product is added to it (a kernel that adds to what
it finds reads it while it multiplies), and the gradient of X is one tensor, to which each map's product is added. Kept
for the backward pass are X, or what it is made of, and X Aᵀ, which is small. Whoever needs an output in the backward
pass can have it computed again from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.basics.fast_paths import ON_UPDATED
from variants.acceleration.basics.tensor_notes import TensorNotes
from variants.acceleration.products.sources import source_of
from variants.layer import AdapterLayer, rows
from variants.sites.kinds.few_bits import is_packed
from variants.sites.site import Site

LONGEST = 12288
"""Input features of a map up to which its outputs are computed again: of longer products a number costs more time than
keeping its two bytes is worth. LLaMA-7B's way down (11,008) is within: its outputs are 2.5 % of a step's memory."""

_UPDATED: TensorNotes[_Output] = TensorNotes()


def is_updated(y: Tensor) -> bool:
    """Whether a map's output has the low-rank updates of its layers in it."""
    return _UPDATED.get(y) is not None


def again_of(y: Tensor) -> Callable[[], Tensor] | None:
    """What computes such an output, (N, out_features), again in the backward pass, from what is kept anyway; None where
    that cannot be, or takes too long."""
    note = _UPDATED.get(y)
    return note if note is not None and note.pays else None


def forget() -> None:
    """What is known of tensors ends with its accelerated pass."""
    _UPDATED.forget()


class Update(NamedTuple):
    """The place of a low-rank update.

    Attributes:
        map: number of its map.
        span: (start, stop) of the map's output features.
        scale: such as α/r.
        rank: rows of its A.
    """

    map: int
    span: tuple[int, int]
    scale: float
    rank: int


def updated_outputs(modules: Sequence[nn.Module], sites: Sequence[Site], x: Tensor) -> list[Tensor] | None:
    """The outputs of frozen maps with their updates, (..., out_features) each; None where another way is needed.

    Args:
        modules: the maps.
        sites: of the whole maps.
        x: what all read, (..., in_features).
    """
    found: list[Update] = []
    factors: list[Tensor | None] = []
    for place, module in enumerate(modules):
        adapters = module._modules.get("adapter")
        if adapters is None or not adapters.enabled:
            continue
        if adapters.changes_input or adapters.changes_length or adapters.cut.groups != 1:
            return None
        for layer, span in zip(adapters.in_order, adapters.cut.spans, strict=True):
            if not _fits(layer, adapters.whole):
                return None
            A, B, scale, inner, outer = update = layer.low_rank()
            if any(isinstance(factor, Tensor) and factor.dtype != x.dtype for factor in update):
                return None
            if outer is not None:
                B = outer[:, None] * B
            if inner is not None and inner.ndim == 2:
                A, inner = inner @ A, None
            found.append(Update(place, span, scale, len(A)))
            factors += (A, B, inner)
    if not found:
        return None
    A = torch.cat(factors[::3])
    source = source_of(x)
    kept = source.kept if A.requires_grad else ()
    z, x = _Projected.apply(x, A, source.values, *kept)
    Bs, inners = factors[1::3], factors[2::3]
    outputs = _Updated.apply(x, z, A.detach(), sites, found, *Bs, *inners)
    projected = z.grad_fn if A.requires_grad else None
    for place, y in enumerate(outputs):
        _UPDATED.put(y, _Output(projected, z.detach(), sites[place], place, found, Bs, inners))
    return list(outputs)


class _Output(NamedTuple):
    """How the output of a map is computed again in the backward pass.

    Attributes:
        projected: the node of `_Projected`, which knows X; None where X is not kept.
    """

    projected: Any
    z: Tensor
    site: Site
    place: int
    updates: list[Update]
    Bs: Sequence[Tensor]
    inners: Sequence[Tensor | None]

    @property
    def pays(self) -> bool:
        """A packed weight would have to be made dense once more."""
        short = self.site.in_features <= LONGEST and not is_packed(self.site.module.weight)
        return self.projected is not None and short

    @torch.no_grad()
    def __call__(self) -> Tensor:
        parts = _inner(self.z, self.updates, self.inners)
        return _output(_input(self.projected), self.site, _own(self.place, self.updates, parts, self.Bs))


def _fits(layer: nn.Module, whole: bool) -> bool:
    """Whether a layer adds its low-rank update and, where it has a whole map, perhaps goes on from there."""
    if not isinstance(layer, AdapterLayer) or layer.drops or layer.hooked:  # stacked layers have many updates
        return False
    return layer.adds_low_rank or (whole and type(layer).forward in ON_UPDATED)


class _Projected(torch.autograd.Function):
    """X Aᵀ, and X itself, whose gradient comes back with all parts of it.

    All that is kept for the gradients of large tensors is kept here, before the frozen products: gradient checkpointing
    computes a block again up to what is kept last, and need not compute the last of them again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, values: Callable[..., Tensor], *kept: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.values, ctx.input = values, None
        ctx.save_for_backward(*kept)
        same = x.view_as(x)
        if not ctx.needs_input_grad[0]:  # of embeddings nobody wants the gradient
            ctx.mark_non_differentiable(same)
        return rows(x) @ A.mT, same

    @staticmethod
    def backward(ctx: Any, of_z: Tensor | None, of_x: Tensor | None) -> tuple[Tensor | None, ...]:
        of_A = None
        if of_z is not None and ctx.needs_input_grad[1]:
            of_A = of_z.mT @ _input(ctx)
        ctx.input = None
        return of_x, of_A, *(None for _ in ctx.needs_input_grad[2:])


@torch.no_grad()
def _input(projected: Any) -> Tensor:
    """X (N, in_features) in the backward pass, computed once for all that need it. What is kept is asked for once: a
    second time gradient checkpointing refuses."""
    if projected.input is None:
        projected.input = rows(projected.values(*projected.saved_tensors))
    return projected.input


class _Updated(torch.autograd.Function):
    """The outputs of all maps. What it keeps is small, and kept as it is."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, z: Tensor, A: Tensor, sites: Sequence[Site], updates: list[Update], *factors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.sites, ctx.updates, ctx.shape, ctx.small = sites, updates, x.shape, (z, A, factors)
        Bs, inners = factors[: len(updates)], factors[len(updates) :]
        parts, flat, outputs = _inner(z, updates, inners), rows(x), []
        for place, site in enumerate(sites):
            own = _own(place, updates, parts, Bs)
            outputs.append(_output(flat, site, own).view(*x.shape[:-1], site.out_features))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (z, A, factors), updates = ctx.small, ctx.updates
        flat = [None if gradient is None else rows(gradient) for gradient in gradients]
        wants_x, wants_z, *wanted = ctx.needs_input_grad[:2] + ctx.needs_input_grad[5:]
        Bs, inners = factors[: len(updates)], factors[len(updates) :]
        of_Bs, of_inners = [None] * len(updates), [None] * len(updates)
        of_z, start = torch.empty_like(z), 0
        parts = _inner(z, updates, inners)
        for number, (update, part, B, inner) in enumerate(zip(updates, parts, Bs, inners, strict=True)):
            own = slice(start, start + update.rank)
            start, of_part, gradient = own.stop, of_z[:, own], flat[update.map]
            if gradient is None:
                of_part.zero_()
                continue
            gradient = gradient[:, slice(*update.span)]
            of_part.addmm_(gradient, B, beta=0, alpha=update.scale)
            if wanted[number]:
                of_Bs[number] = _scaled(gradient.mT, part, update.scale)
            if inner is not None:
                if wanted[len(updates) + number]:
                    of_inners[number] = (of_part.float() * z[:, own]).sum(0).to(inner.dtype)
                of_part *= inner
        of_x = None
        if wants_x:
            of_x = of_z @ A
            for site, gradient in zip(ctx.sites, flat, strict=True):
                if gradient is not None:
                    of_x.addmm_(gradient, site.weight())
            of_x = of_x.view(ctx.shape)
        return of_x, of_z if wants_z else None, None, None, None, *of_Bs, *of_inners


def _inner(z: Tensor, updates: Sequence[Update], inners: Sequence[Tensor | None]) -> list[Tensor]:
    """The part of z (N, ranks) that is of each update, times its inner vector."""
    parts = z.split([update.rank for update in updates], 1)
    return [part if inner is None else part * inner for part, inner in zip(parts, inners, strict=True)]


def _own(
    place: int, updates: Sequence[Update], parts: Sequence[Tensor], Bs: Sequence[Tensor]
) -> list[tuple[Update, Tensor, Tensor]]:
    """The updates of one map, with their parts of z and their Bs."""
    return [one for one in zip(updates, parts, Bs, strict=True) if one[0].map == place]


def _output(flat: Tensor, site: Site, own: list[tuple[Update, Tensor, Tensor]]) -> Tensor:
    """The output (N, out_features) of one map with its updates."""
    weight, bias = site.weight(), site.bias()
    if len(own) == 1 and own[0][0].span == (0, site.out_features):
        (update, part, B) = own[0]
        if bias is None:
            return _scaled(part, B.mT, update.scale).addmm_(flat, weight.mT)
        return torch.addmm(bias, part, B.mT, alpha=update.scale).addmm_(flat, weight.mT)
    y = F.linear(flat, weight, bias)
    for update, part, B in own:
        y[:, slice(*update.span)].addmm_(part, B.mT, alpha=update.scale)
    return y


def _scaled(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """scale · a b, without a kernel for the scale."""
    return torch.addmm(a.new_empty(()).expand(len(a), b.shape[1]), a, b, beta=0, alpha=scale)
