"""The size of a variant whose number of trained parameters is nearest to a budget."""

from __future__ import annotations

import re
import warnings

import torch
from torch import nn

from variants.adapters.adapted_model import attach
from variants.errors import VariantError, first_line
from variants.layer import AdapterLayer
from variants.outside.places import place
from variants.variant import BaseVariant

LARGEST = 2**16
"""No rank, bottleneck or prefix above this is tried."""
FIRST, NEAR = 256, 64
"""A method takes a size up to this, and another at most so far from any (a rank that must be even, or divide)."""


def parse(text: str | int | float) -> int:
    """Parameters that ``0.3M``, ``300K`` or ``300000`` names. Raises VariantError of anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMB]?)\s*", str(text), re.IGNORECASE)
    budget = round(float(match[1]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9}[match[2].upper()]) if match else 0
    if budget < 1:
        raise VariantError(f"a budget is a number of parameters such as 0.3M, 300K or 300000, not {text!r}")
    return budget


def trained_parameters(model: nn.Module, variant: BaseVariant) -> int:
    """How many parameters ``variant`` trains on ``model``, which is on the meta device, the task head apart."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that are only tried
        adapted = attach(model, variant)
        try:
            for layer in adapted.layers:
                _try(layer)
            return adapted.count()["adapter"]
        finally:
            adapted.deactivate()


def _try(layer: AdapterLayer) -> None:
    """Compute the update of a layer that is one of a weight, without values.

    Raises:
        VariantError: it cannot be, as a rank is above what the weight has.
    """
    if type(layer).forward is not AdapterLayer.forward or hasattr(layer, "lengthen"):
        return
    try:
        layer.delta_weight()
    except Exception as error:
        raise VariantError(f"{place(error)}no update at {layer.site.path}: {first_line(error)}") from error


def fit(model: nn.Module, variant: BaseVariant, budget: int) -> tuple[BaseVariant, int]:
    """(variant of the size nearest to ``budget``, the parameters it trains); of two equally near, the smaller.

    A size that the method refuses or that fails in a pass is none.

    Args:
        model: on the meta device; nothing is computed.
        variant: all its other options stay as they are.

    Raises:
        VariantError: the variant has no size, or fits the model at none.
    """
    if not variant.size:
        raise VariantError(f"{variant.name} has no size (such as r) that a budget could set")
    counts = _Counts(model, variant)
    first = next((size for size in range(1, FIRST + 1) if counts[size]), None)
    if first is None:
        raise VariantError(f"{variant.name} fits at no {variant.size} from 1 to {FIRST}: {counts.refusal}")
    below, above = first, 2 * first
    while counts[below] < budget and above <= LARGEST and counts[below] < counts[above] < budget:
        below, above = above, 2 * above
    while counts[below] < budget and (middle := counts.between(below, above)):
        below, above = (middle, above) if counts[middle] < budget else (below, middle)
    best = min((size for size in counts if counts[size]), key=lambda size: (abs(counts[size] - budget), size))
    return variant.sized(best), counts[best]


class _Counts(dict[int, int]):
    """Size -> trained parameters, 0 where the method takes no such size."""

    def __init__(self, model: nn.Module, variant: BaseVariant) -> None:
        super().__init__()
        self.model, self.variant, self.refusal = model, variant, ""

    def __missing__(self, size: int) -> int:
        try:
            self[size] = trained_parameters(self.model, self.variant.sized(size))
        except (ValueError, AssertionError) as error:
            self.refusal, self[size] = self.refusal or str(error), 0
        return self[size]

    def between(self, below: int, above: int) -> int | None:
        """The size nearest to the middle of two others that the method takes, where there is one near."""
        middle = (below + above) // 2
        near = sorted(range(max(below + 1, middle - NEAR), min(above, middle + NEAR)), key=lambda n: abs(n - middle))
        return next((size for size in near if self[size]), None)
