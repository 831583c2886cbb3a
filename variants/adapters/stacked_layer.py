"""A layer of several adapters at once, and any function of a module with stacked tensors, under ``vmap``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank
from variants.prefix_room import RoomLayer
from variants.variant import BaseVariant

Stacked = Mapping[str, Tensor]
"""Tensors (S, ...) of S adapters, by the names that they have in a layer."""


class StackedLayer(nn.Module):
    """The layers of all S adapters at a site: rows (S·B, ...) go through them as (S, B, ...).

    Args:
        size: S.
        layer: the first adapter's.
        tensors: gives the stacked tensors (S, ...) by the names that they have in the layer.
        begun: gives those that the adapters began with, where each takes its first update off the base. The base is
            shared, and whole: here the first updates are taken off outputs.
    """

    def __init__(
        self, size: int, layer: AdapterLayer, tensors: Callable[[], Stacked], begun: Callable[[], Stacked] | None = None
    ) -> None:
        super().__init__()
        self.site, self.size = layer.site, size
        each = partial(for_each, size, layer)
        # no children: the layer's tensors are the stack's
        object.__setattr__(self, "first", layer)
        self.tensors, self.begun = tensors, begun
        object.__setattr__(self, "_forward", joined(each(layer.forward, tensors)))
        object.__setattr__(self, "_factors", each(self._read, tensors))
        if begun is not None:
            object.__setattr__(self, "_first_forward", joined(each(layer.forward, begun)))
            object.__setattr__(self, "_first_factors", each(self._read, begun))
        if hasattr(layer, "pre"):
            object.__setattr__(self, "pre", joined(each(layer.pre, tensors)))
        if hasattr(layer, "lengthen"):  # room is made once for all rows, and filled for each
            object.__setattr__(self, "lengthen", partial(layer.lengthen, embeddings=each(layer.embeddings, tensors)))
            object.__setattr__(self, "shorten", layer.shorten)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """As :meth:`AdapterLayer.forward`, of x (S·B, ..., in_features) and y (S·B, ..., out_features)."""
        if self.begun is not None:
            y = 2 * y - self._first_forward(x, y)
        return self._forward(x, y)

    def low_rank(self) -> LowRank:
        """The updates of all layers: each factor as (S, ...), or as it is where all layers share it; less the first
        ones, where these are off the base, of twice the rank."""
        now = self._named(self._factors())
        if self.begun is None:
            return now
        first = self._named(self._first_factors())
        A, B = torch.cat([now.A, first.A.to(now.A)], -2), torch.cat([now.B, -first.B.to(now.B)], -1)
        return now._replace(A=A, B=B)

    def _read(self) -> tuple[Tensor, ...]:
        """The factors of one adapter's update, under ``vmap``; notes what all have in common."""
        update = self.first.low_rank()
        update = update if self.begun is None else update.folded()
        self._common = [None if isinstance(value, Tensor) else (value,) for value in update]
        self.inner_is_matrix = update.inner is not None and update.inner.ndim == 2
        return tuple(value for value in update if isinstance(value, Tensor))

    def _named(self, factors: Iterable[Tensor]) -> LowRank:
        shared = iter(shared_factor(factor) for factor in factors)
        return LowRank(*(next(shared) if value is None else value[0] for value in self._common))

    def train(self, mode: bool = True) -> StackedLayer:
        """Also sets the mode of the layer that the forward function is taken from."""
        self.first.train(mode)
        return super().train(mode)


def shared_factor(factor: Tensor) -> Tensor:
    """A factor (S, ...) without its first dimension where ``vmap`` has only repeated it."""
    return factor[0] if factor.stride(0) == 0 and len(factor) > 1 else factor


class Swapped(nn.Module):
    """A function whose look-ups of a module's tensors ``functional_call`` can redirect."""

    def __init__(self, inner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *args: Any) -> Any:
        """The function's own result."""
        return self.function(*args)


def for_each(
    size: int, module: nn.Module, function: Callable[..., Any], stacked: Callable[[], Stacked]
) -> Callable[..., Any]:
    """``function`` of ``module``, computed with the tensors of adapter i on the i-th part of the rows; what it gives
    for each, stacked (S, ...)."""
    swapped = Swapped(module, function)

    def one(tensors: dict[str, Tensor], *args: Tensor) -> Any:
        return functional_call(swapped, tensors, args, tie_weights=False)

    every = vmap(one, randomness="different")  # each has its own dropout

    def call(*args: Tensor) -> Any:
        if rest := [len(x) for x in args if len(x) % size]:
            raise VariantError(f"{type(module).__name__} gets {rest[0]} rows, which {size} adapters cannot share")
        tensors = {f"inner.{name}": tensor for name, tensor in stacked().items()}
        return every(tensors, *(x.unflatten(0, (size, -1)) for x in args))

    return call


def joined(every: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Its rows one behind the other, (S·B, ...)."""
    return lambda *args: every(*args).flatten(0, 1)


# ---- what stacking must not lose ----------------------------------------------------------------------------------


def why_not(variant: BaseVariant | type[BaseVariant], packed: bool = False) -> str | None:
    """Why adapters of a variant cannot be stacked, or None; on a base in few bits where it is ``packed``."""
    if not variant.stackable:
        return "it declares stackable = False"
    kind = variant if isinstance(variant, type) else type(variant)
    if kind.attach is not BaseVariant.attach:
        return "it changes the model beyond its layers"
    if kind.optimizer is not BaseVariant.optimizer:
        return "it has an optimizer of its own"
    if packed and variant.subtract_initial:
        return "it takes its first update off the base before that is put in few bits"
    return None


def unstackable(
    model: nn.Module, variant: BaseVariant, in_place: Iterable[str], layers: Iterable[AdapterLayer]
) -> str | None:
    """What no stacked pass would call or could compute, in words; hooks of submodules and of gradients are called.

    Args:
        variant: of the layers.
        in_place: names of the model's own parameters that train.
    """
    if any(isinstance(model.get_submodule(name.rpartition(".")[0]), nn.GroupNorm) for name in in_place):
        return "PyTorch has no GroupNorm with other weights for each (under vmap)"
    for layer in layers:
        if hasattr(layer, "lengthen") and not _makes_room(layer):
            return "it changes the length of the sequence in a way of its own"
        if layer.reads_mask:
            return "its layers read the mask of the whole batch"
        if layer.hooked:
            return "its layers have hooks of their own: put what they do into forward"
        if any(p._post_accumulate_grad_hooks for p in layer.parameters()):
            return "it has hooks that run after a gradient is accumulated: use register_hook, or after_step"
        if variant.subtract_initial and getattr(layer.dropout, "p", 0.0):
            return "its first update is off weights, whose inputs are not dropped"
    return None


def _makes_room(layer: AdapterLayer) -> bool:
    """Whether a layer changes a sequence's length as prefixes do."""
    kind = type(layer)
    return isinstance(layer, RoomLayer) and (kind.lengthen, kind.shorten) == (RoomLayer.lengthen, RoomLayer.shorten)


def hooked(tensors: Sequence[Tensor], gradient: Tensor) -> Tensor:
    """The gradient (S, ...) of a stacked tensor after the hooks of each adapter's own tensor."""
    parts = list(gradient.unbind())
    for index, tensor in enumerate(tensors):
        for hook in (tensor._backward_hooks or {}).values():
            changed = hook(parts[index])
            parts[index] = parts[index] if changed is None else changed
    return torch.stack(parts)


def different(layer: nn.Module, other: nn.Module) -> str | None:
    """Name of a number, a text or a list of these among two modules' plain attributes, submodules included, that is not
    the same."""
    for (path, one), (_, two) in zip(layer.named_modules(), other.named_modules(), strict=True):
        for name, value in vars(one).items():
            plain = isinstance(value, (bool, int, float, str, tuple, list)) and not name.startswith("_")
            if plain and repr(value) != repr(vars(two).get(name)):
                return f"{path}.{name}" if path else name
    return None
