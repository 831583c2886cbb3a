"""Weights of an adapter by a UNet's blocks, as ``pipe.set_adapters`` takes them, for `variants.adapters.combine`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from variants.errors import VariantError


def block_weights(nested: Mapping[str, Any]) -> dict[str, float]:
    """Globs over sites -> weights, for ``combine({"style": block_weights({"down": 0.9, "up": {"block_1": 0.6}})})``.

    As in diffusers, a weight is for the attention of its block, and what has none is weighed 1.

    Args:
        nested: ``down`` and ``up`` -> a number, or ``block_0``, ... -> a number, or a list with one for each attention
            of the block; ``mid`` -> a number.

    Raises:
        VariantError: it is of another form.
    """
    found = dict(_globs(nested))
    if wrong := [glob for glob, weight in found.items() if not isinstance(weight, (int, float))]:
        raise VariantError(f"the weight of {wrong[0]} is {found[wrong[0]]!r}, and no number")
    return found


def _globs(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for part, weight in nested.items():
        if part not in ("down", "mid", "up"):
            raise VariantError(f"blocks are weighed by down, mid and up, not by {part!r}")
        if part == "mid":
            yield "mid_block.attentions.*", weight[0] if isinstance(weight, list) and len(weight) == 1 else weight
            continue
        blocks = weight if isinstance(weight, Mapping) else {"block_*": weight}
        for block, own in blocks.items():
            where = f"{part}_blocks.{str(block).removeprefix('block_')}.attentions"
            if isinstance(own, Sequence) and not isinstance(own, str):
                yield from ((f"{where}.{number}.*", each) for number, each in enumerate(own))
            else:
                yield f"{where}.*", own
