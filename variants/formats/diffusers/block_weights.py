"""Weights of an adapter by a UNet's blocks, as ``pipe.set_adapters`` takes them, for `variants.adapters.combine`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import refuse_unknown
from variants.errors import VariantError

_PLACE = re.compile(r"(down|up)_blocks\.(\d+)\.\w+\.(\d+)(?:\.|$)")


def block_weights(adapted: AdaptedModel, name: str, nested: Mapping[str, Any]) -> dict[str, float]:
    """Path of each of an adapter's sites -> its weight: ``combine({"style": block_weights(adapted, "style", {...})})``.

    diffusers' rule: the weight of an attention is that of the ResNet and of the sampler with its number too; what has
    none, as all of a block without attention, is weighed 1.

    Args:
        nested: ``down`` and ``up`` -> a number, or ``block_0``, ... -> a number, or a list with one for each attention
            of the block; ``mid`` -> a number.

    Raises:
        VariantError: there is no such adapter or block, or a weight is no number.
    """
    refuse_unknown(adapted.adapters, [name])
    counts = {
        (match[1], match[2]): len(module)
        for path, module in adapted.model.named_modules()
        if (match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.attentions", path))
    }
    weights = {(part, block, n): 1.0 for (part, block), count in counts.items() for n in range(count)}
    for part, chosen in nested.items():
        if part not in ("down", "mid", "up"):
            raise VariantError(f"blocks are weighed by down, mid and up, not by {part!r}")
        if part == "mid":
            continue
        blocks = [block for each, block in counts if each == part]
        own = chosen if isinstance(chosen, Mapping) else {f"block_{block}": chosen for block in blocks}
        for key, weight in own.items():
            block = str(key).removeprefix("block_")
            if block not in blocks:
                raise VariantError(f"{part}: there is no {key} with attention; there are {', '.join(blocks)}")
            count = counts[part, block]
            many = weight if isinstance(weight, list) and len(weight) > 1 else [_one(weight)] * count
            if len(many) != count:
                raise VariantError(f"{part}.{key} has {count} attentions, and {len(many)} weights")
            weights |= {(part, block, n): each for n, each in enumerate(many)}
    if wrong := [weight for weight in (*weights.values(), _one(nested.get("mid", 1.0))) if not _is_number(weight)]:
        raise VariantError(f"{wrong[0]!r} is no weight: give a number")
    found = {}
    for path in adapted.adapters[name].layers:
        if path.startswith("mid_block.attentions.0."):
            found[path] = _one(nested.get("mid", 1.0))
        else:
            match = _PLACE.match(path)
            found[path] = weights.get((match[1], match[2], int(match[3])), 1.0) if match else 1.0
    return found


def _one(weight: Any) -> Any:
    """A weight that may stand in a list of its own."""
    return weight[0] if isinstance(weight, list) and len(weight) == 1 else weight


def _is_number(weight: Any) -> bool:
    return isinstance(weight, (int, float)) and not isinstance(weight, bool)
