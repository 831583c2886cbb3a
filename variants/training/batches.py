"""A few training batches as a method sees them that takes its initial values from data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, wide
from variants.sites.kinds.patches import in_rows
from variants.training.hooks import tell_mask

Batch = dict[str, Tensor]


class Batches:
    """Training batches, what they put into each site, and the gradients that they give its base weight.

    Args:
        model: the adapted model, called as ``model(**batch)`` where there is no ``loss``, which knows how else.
        layers: the active adapter's.
        batches: padded batches, on the model's device or to be moved there; they may be gone through once.
        loss: of a batch, a scalar; by default what the model gives as ``loss``.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AdapterLayer],
        batches: Iterable[Batch],
        loss: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        self.model, self.layers, self._batches, self._loss = model, list(layers), batches, loss

    def __iter__(self) -> Iterator[Batch]:
        device = next(self.model.parameters()).device
        try:
            for batch in self._batches:
                batch = {name: each.to(device) if isinstance(each, Tensor) else each for name, each in batch.items()}
                tell_mask(self.layers, batch.get("attention_mask"))
                yield batch
        finally:
            tell_mask(self.layers, None)

    @torch.no_grad()
    def inputs(self) -> Iterator[dict[str, Tensor]]:
        """Of each batch what goes into each site, by path: (tokens, in_features) without padding, in fp32 at least."""
        for batch in self:
            seen: dict[str, Tensor] = {}
            with self._watched(lambda layer, x, y, seen=seen: seen.__setitem__(layer.site.path, x)):
                self._loss(batch) if self._loss else self.model(**batch)
            mask = batch.get("attention_mask")
            yield {path: _tokens(x, mask) for path, x in seen.items()}

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of each site's base weight, by path: (out_features, in_features), summed over the batches.

        No base weight needs to train for it: it is the sum over tokens of the output's gradient times the input.
        """
        sums: dict[str, Tensor] = {}

        def watch(layer: AdapterLayer, x: Tensor, y: Tensor) -> None:
            if y.requires_grad:
                y.register_hook(lambda gradient: add(layer, x, gradient))

        def add(layer: AdapterLayer, x: Tensor, gradient: Tensor) -> None:
            gradient = gradient if layer.site.window is None else in_rows(gradient)
            own = wide(layer.site.rows.of(gradient.movedim(-1, 0)).flatten(1)) @ wide(x).flatten(0, -2)
            path = layer.site.path
            sums[path] = sums[path] + own if path in sums else own

        trained = [p for p in self.model.parameters() if p.requires_grad]
        before = [p.grad for p in trained]
        for batch in self:
            with self._watched(watch), torch.enable_grad():
                self._of(batch).backward()
        for parameter, gradient in zip(trained, before, strict=True):
            parameter.grad = gradient
        return sums

    def _of(self, batch: Batch) -> Tensor:
        if self._loss is not None:
            return self._loss(batch)
        loss: Any = getattr(self.model(**batch), "loss", None)
        if loss is None:
            raise VariantError("the batches have no labels, so that the model gives no loss: pass loss=")
        return loss

    @contextmanager
    def _watched(self, see: Callable[[AdapterLayer, Tensor, Tensor], None]) -> Iterator[None]:
        """``with`` this, the model is in evaluation mode, and layers show what goes into their map and comes out."""
        training = self.model.training
        self.model.eval()
        handles = [
            layer.site.module.register_forward_hook(_showing(layer, see), with_kwargs=True) for layer in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.model.train(training)


def _showing(layer: AdapterLayer, see: Callable[[AdapterLayer, Tensor, Tensor], None]) -> Callable:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        x, window = (args or tuple(kwargs.values()))[0].detach(), layer.site.window
        see(layer, x if window is None else window.patches(x), output[0] if isinstance(output, tuple) else output)

    return hook


def _tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """(..., n) as rows, those of a batch (rows, length, n) that the mask (rows, length) leaves in."""
    if mask is not None and x.ndim == 3 and mask.shape == x.shape[:2]:
        return wide(x[mask.bool()])
    return wide(x.flatten(0, -2))
