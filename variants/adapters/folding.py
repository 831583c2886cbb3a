"""Layers folded into plain weights, before any of them is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer

Folded = tuple[Tensor, Tensor | None]
"""Weight (out, in) and bias (out) of the plain map that equals base and adapter together."""


def fold(layers: Mapping[str, AdapterLayer]) -> tuple[dict[str, Folded], float]:
    """The merged map of each site, and the largest difference from base and adapter over all of them
    (:meth:`AdapterLayer.folded`)."""
    worst, folded = 0.0, {}
    for path, layer in layers.items():
        folded[path], difference = layer.folded()
        worst = max(worst, difference)
    return folded, worst


def refuse_tied(model: nn.Module, layers: Iterable[AdapterLayer]) -> None:
    """Raise VariantError where a layer's base weight is another module's too: merging would change both."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    for layer in layers:
        shared = owners.get(id(layer.site.parameter), [])
        if len(shared) > 1:
            raise VariantError(f"cannot merge into {shared[0]}: the same tensor is {shared[1]}")
