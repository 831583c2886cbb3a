"""The declared low-rank update of any method as a LoRA that computes the same."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import copy_tensors
from variants.errors import VariantError
from variants.formats.common import by_module
from variants.formats.peft.common import Map
from variants.layer import AdapterLayer, LowRank, wide


def is_low_rank(layer: AdapterLayer) -> bool:
    """All that the layer does is to add a low-rank product to its map."""
    plain = type(layer).merged is AdapterLayer.merged and not hasattr(layer, "pre") and not hasattr(layer, "lengthen")
    return plain and layer.adds_low_rank


def way_to_lora(adapted: AdaptedModel) -> str:
    """How an adapter that PEFT has no form for gets into one of its files: the end of a refusal."""
    if adapted.layers and all(map(is_low_rank, adapted.layers)):
        return "; as LoRA it computes the same: --as lora, or as_lora=True"
    if adapted.layers and adapted.variant.mergeable:
        return f"; combine({{{adapted.active!r}: 1.0}}, 'as-lora', rank=...) makes a LoRA near it, with the error"
    return ""


@torch.no_grad()
def lora_maps(adapted: AdaptedModel) -> dict[str, Map]:
    """The active adapter's layers as LoRA of scaling 1, by module: slices of a fused map as one LoRA of the whole.

    Of a variant that takes its first delta off the base, that delta is taken off the update: the base is whole again.

    Raises:
        VariantError: a layer's update is no declared low-rank product.
    """
    if other := [layer.site.path for layer in adapted.layers if not is_low_rank(layer)]:
        raise VariantError(f"{adapted.variant.name} declares no low-rank update of {other[0]}{way_to_lora(adapted)}")
    pairs = {layer.site.path: _pair(layer.low_rank()) for layer in adapted.layers}
    if adapted.adapter.first:
        now = {key: tensor.detach().clone() for key, tensor in adapted.adapter.tensors().items()}
        copy_tensors(adapted.adapter, adapted.adapter.initial)
        for layer in adapted.layers:
            (a, b), (first_a, first_b) = pairs[layer.site.path], _pair(layer.low_rank())
            pairs[layer.site.path] = torch.cat([a, first_a]), torch.cat([b, -first_b], dim=1)
        copy_tensors(adapted.adapter, now)
    maps = {}
    for path, layers in by_module(adapted.layers).items():
        a = torch.cat([pairs[layer.site.path][0] for layer in layers])
        b = torch.cat([layer.site.rows.spread(pairs[layer.site.path][1]) for layer in layers], dim=1)
        if len(a) > min(len(b), a.shape[1]):  # a product has no higher rank than its smaller side
            u, s, v = torch.linalg.svd(b @ a, full_matrices=False)
            a, b = v, u * s
        maps[path] = Map(layers[0].site.whole(), {"lora_A": a, "lora_B": b}, len(a), float(len(a)))
    return maps


def _pair(update: LowRank) -> tuple[Tensor, Tensor]:
    """A (r, in) and B (out, r) with ΔW = B A: `inner` goes into A, scale and `outer` into B. New tensors."""
    a, b = wide(update.A.detach()), update.scale * wide(update.B.detach())
    if update.inner is not None:
        inner = wide(update.inner.detach())
        a = inner @ a if inner.ndim == 2 else inner[:, None] * a
    return a.clone(), b if update.outer is None else wide(update.outer.detach())[:, None] * b
