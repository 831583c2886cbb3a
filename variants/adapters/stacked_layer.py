"""A layer of several adapters at once, and any function of a module with stacked tensors, under ``vmap``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vmap

from variants.acceleration.low_rank import Product
from variants.acceleration.shared_input import reading_of
from variants.adapters.hooks import adds_product
from variants.errors import VariantError
from variants.layer import AdapterLayer


class StackedLayer(nn.Module):
    """One site's layers of all S adapters: rows (S·B, ...) go through them as (S, B, ...).

    Args:
        size: S.
        layer: the first adapter's.
        tensors: gives the stacked tensors (S, ...) by the names that they have in the layer.
    """

    def __init__(self, size: int, layer: AdapterLayer, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.site = layer.site
        self.__dict__["_layer"] = layer  # no children: their tensors are the stack's
        together = partial(for_each, size, layer, stacked=tensors)
        self.__dict__["_forward"] = joined(together(layer.forward))
        self.__dict__["_factors"] = together(self._product)
        if hasattr(layer, "pre"):
            self.__dict__["pre"] = joined(together(layer.pre))

    @property
    def adds_product(self) -> bool:
        """See :func:`variants.adapters.hooks.adds_product`."""
        return adds_product(self._layer)

    def product(self, x: Tensor) -> Product:
        """The layers' products: z (S, B, ..., r) and a factor for each, (S, out_features, r)."""
        z, factor = self._factors(x)
        return Product(z, factor, self._scale)

    def _product(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, factor, self.__dict__["_scale"] = self._layer.product(x)
        return z, factor

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self._forward(x, y)

    def train(self, mode: bool = True) -> StackedLayer:
        self._layer.train(mode)
        return super().train(mode)


class Swapped(nn.Module):
    """A function whose look-ups of a module's tensors ``functional_call`` can redirect."""

    def __init__(self, inner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.function = inner, function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def for_each(
    size: int, module: nn.Module, function: Callable[..., Any], stacked: Callable[[], Mapping[str, Tensor]]
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
        parts = [x.unflatten(0, (size, -1)) for x in args]
        for x, part in zip(args, parts, strict=True):
            if reading := reading_of(x):
                part.reading = reading
        return every(tensors, *parts)

    return call


def joined(every: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Its rows one behind the other, (S·B, ...)."""
    return lambda *args: every(*args).flatten(0, 1)
