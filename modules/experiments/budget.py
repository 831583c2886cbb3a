"""``--budget 0.3M``: the size of a variant, on a given backbone, that trains the nearest number of parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from variants.variant import BaseVariant

FAR = 0.1
"""How far off a budget, as a share of it, is worth a word."""


def pick(folder: Path, auto_class: str, variant: BaseVariant, wanted: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The options that come nearest to a budget, and how near.

    Args:
        folder: of the backbone; only its configuration is read.
        auto_class: transformers' name of the kind of model that the benchmark trains.
        variant: its size is replaced, its other options are kept.
        wanted: such as ``0.3M``; the task head is not counted.

    Returns:
        The options that the budget sets (AdaLoRA: two), and the ``wanted`` and the ``counted`` number of parameters.

    Raises:
        VariantError: ``wanted`` is no number of parameters, or the variant has no size.
    """
    from modules.backbones.loading import shapes_only
    from variants.parameter_budget import fit, parse

    number = parse(wanted)
    fitted, counted = fit(shapes_only(folder, auto_class), variant, number)
    before = variant.options()
    sizes = {name: value for name, value in fitted.options().items() if name == variant.size or value != before[name]}
    return sizes, {"wanted": number, "counted": counted}


def line(variant: str, sizes: dict[str, Any], budget: dict[str, int]) -> str:
    """What was picked, and how near that comes."""
    picked = ", ".join(f"{name}={value}" for name, value in sizes.items())
    off = budget["counted"] / budget["wanted"] - 1
    said = f"budget {budget['wanted']:,}: {variant} with {picked} trains {budget['counted']:,} ({off:+.1%}), head apart"
    return said if abs(off) <= FAR else f"{said}; no size of it comes nearer"
