"""EVA: Parameter Efficient Fine-tuning via Explained Variance Adaptation (Paischer et al. 2024, arXiv 2410.07170)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from variants.errors import VariantError
from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register

if TYPE_CHECKING:
    from variants.training.batches import Batches


class EVALayer(LoRALayer):
    """LoRA's, whose rank data decides; the scaling stays that of the rank asked for."""

    resizable = {"lora_A": 0, "lora_B": 1}


@register("eva")
@dataclass
class EVA(LoRA):
    """EVA: LoRA that starts from the directions of most variance of what goes into each map, with ranks to where these
    explain most (arXiv 2410.07170).

    Args:
        rho: ρ, the most that a map's rank may be of r, which is the mean; 1 keeps all ranks at r.
    """

    rho: float = 2.0

    layer = EVALayer
    stackable = False  # ranks differ between seeds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 1:
            raise VariantError(f"rho must be at least 1, not {self.rho:g}")

    @torch.no_grad()
    def init_from_data(self, model: nn.Module, batches: Batches) -> None:
        """A = the leading right singular vectors of the inputs, as many as are the map's (algorithm 1)."""
        grams: dict[str, torch.Tensor] = {}
        for inputs in batches.inputs():
            for path, x in inputs.items():
                grams[path] = grams.get(path, 0) + x.mT @ x
        values = {path: torch.linalg.eigh(gram) for path, gram in grams.items()}
        ranks = self.ranks([(layer, values[layer.site.path][0].flip(0)) for layer in batches.layers])
        for layer, r in zip(batches.layers, ranks, strict=True):
            A = values[layer.site.path][1].mT.flip(0)[:r].contiguous()
            layer.lora_A = nn.Parameter(A.to(layer.lora_A))
            layer.lora_B = nn.Parameter(layer.lora_B.new_zeros(layer.site.out_features, r))

    def ranks(self, found: Sequence[tuple[LoRALayer, torch.Tensor]]) -> list[int]:
        """How many directions each map gets: the ones that explain most of its inputs' variance, over all maps."""
        shares = []
        for number, (layer, variances) in enumerate(found):
            most = min(int(self.rho * layer.config.r), layer.site.out_features, len(variances))
            shares += [(-share, number) for share in (variances / variances.sum())[1:most].tolist()]
        beyond_the_first = sum(layer.config.r - 1 for layer, _ in found)
        chosen = [number for _, number in sorted(shares)[:beyond_the_first]]
        return [1 + chosen.count(number) for number in range(len(found))]
