"""The size of a variant whose number of trained parameters is nearest to a budget."""

from __future__ import annotations

import re
import warnings

import torch
from torch import nn

from variants.adapters.adapted_model import attach
from variants.errors import VariantError
from variants.variant import BaseVariant

LARGEST = 2**16
"""No rank, bottleneck or prefix above this is tried."""


def parse(text: str | int | float) -> int:
    """Parameters that ``0.3M``, ``300K`` or ``300000`` names."""
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
    count = adapted.count()["adapter"]
    adapted.deactivate()
    return count


def fit(model: nn.Module, variant: BaseVariant, budget: int) -> tuple[BaseVariant, int]:
    """(variant of the size nearest to ``budget``, the parameters it trains); of two equally near, the smaller.

    Args:
        model: on the meta device; nothing is computed.
        variant: all its other options stay as they are.

    Raises:
        VariantError: the variant has no size, or fits the model at none.
    """
    if not variant.size:
        raise VariantError(f"{variant.name} has no size (such as r) that a budget could set")
    counts: dict[int, int] = {1: trained_parameters(model, variant.sized(1))}

    def reaches(size: int) -> bool:
        """Whether it trains as many as the budget, or is more than the model allows."""
        try:
            counts[size] = trained_parameters(model, variant.sized(size))
        except VariantError:
            return True
        return counts[size] >= budget

    below, above = 1, 2
    while counts[1] < budget and above <= LARGEST and not reaches(above):
        below, above = above, 2 * above
    while counts[1] < budget and above - below > 1:
        middle = (below + above) // 2
        below, above = (below, middle) if reaches(middle) else (middle, above)
    best = min(counts, key=lambda size: (abs(counts[size] - budget), size))
    return variant.sized(best), counts[best]
