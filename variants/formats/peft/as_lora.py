"""The update of any method as LoRA: the same where it is a declared low-rank product, else the nearest of a rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import Adapter
from variants.adapters.update import Nearest, as_matrix, is_low_rank, low_rank_updates
from variants.errors import VariantError
from variants.formats.common import by_module
from variants.formats.peft.common import Map


@dataclass(frozen=True)
class AsLoRA:
    """How near a LoRA comes to an update.

    Attributes:
        rank: the most that it has at each map; None: the update's own, which must be a declared low-rank product.
        max_error: in place of ``rank``, the largest relative error ‖ΔW - BA‖ / ‖ΔW‖ of each map (Frobenius): the
            least rank that keeps to it is taken.
    """

    rank: int | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise VariantError(f"--rank must be at least 1, not {self.rank}")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise VariantError(f"--max_error must lie between 0 and 1, not {self.max_error:g}")

    @property
    def approximates(self) -> bool:
        """Something may be lost."""
        return self.rank is not None or self.max_error is not None


def way_to_lora(adapted: AdaptedModel) -> str:
    """How an adapter that PEFT has no form for gets into one of its files: the end of a refusal."""
    if adapted.layers and all(map(is_low_rank, adapted.layers)):
        return "; as LoRA it computes the same: --as lora, or as_lora=True"
    if adapted.layers and adapted.variant.mergeable:
        return "; a LoRA near it: --as lora --rank R, or as_lora=AsLoRA(R), which says how near"
    return ""


@torch.no_grad()
def lora_maps(adapted: AdaptedModel, how: AsLoRA) -> tuple[dict[str, Map], dict[str, Nearest]]:
    """The active adapter's layers as LoRA of scaling 1, by module: slices of a fused map as one LoRA of the whole.

    Of a variant that takes its first delta off the base, that delta is taken off the update: the base is whole again.

    Returns:
        The maps, and of each what it leaves out.

    Raises:
        VariantError: a layer's update is no declared low-rank product and no rank is given, or no update of a weight.
    """
    adapter, name = adapted.adapter, adapted.variant.name
    if not adapter.layers:
        raise VariantError(f"{name} has no layers on linear maps, so there is no LoRA near it{_merge_instead(adapter)}")
    if other := [path for path, layer in adapter.layers.items() if not is_low_rank(layer)]:
        if not how.approximates:
            raise VariantError(f"{name} declares no low-rank update of {other[0]}{way_to_lora(adapted)}")
        if not adapted.variant.mergeable:
            raise VariantError(f"{name} is no update of weights, so there is no LoRA near it")
    updates = low_rank_updates(adapter)
    if other:
        found = adapted.state
        adapted.deactivate()  # the base weights are in their places now
        try:
            updates |= {path: as_matrix(adapter, path) for path in other}
        except VariantError as error:
            raise VariantError(f"{error}, so there is no LoRA near it{_merge_instead(adapter)}") from error
        finally:
            adapted.restore(found)
    maps, left_out = {}, {}
    for path, layers in by_module(adapter.layers.values()).items():
        parts = [updates.pop(layer.site.path) for layer in layers]
        whole = sum((part.widened() for part in parts[1:]), parts[0].widened())
        nearest = left_out[path] = whole.nearest(how.rank, how.max_error)
        rank = len(nearest.A)
        maps[path] = Map(whole.site, {"lora_A": nearest.A, "lora_B": nearest.B}, rank, float(rank))
    return maps, left_out


def _merge_instead(adapter: Adapter) -> str:
    return ": merge it instead (python -m variants.merge)" if adapter.variant.mergeable else ""
