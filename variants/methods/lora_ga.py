"""LoRA-GA: Low-Rank Adaptation with Gradient Approximation (Wang et al. 2024, arXiv 2407.05000)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from variants.errors import VariantError
from variants.layer import check_rank
from variants.methods.lora import LoRA
from variants.methods.pissa import singular
from variants.registry import register

if TYPE_CHECKING:
    from variants.training.batches import Batches


@register("lora_ga")
@dataclass
class LoRAGA(LoRA):
    """LoRA-GA: LoRA whose first step is near that of full fine-tuning, from the gradient of the weights (arXiv
    2407.05000).

    Args:
        gamma: γ, of the size of the start.
    """

    rslora: bool = True
    gamma: float = 16.0

    subtract_initial = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0:
            raise VariantError(f"gamma must be above 0, not {self.gamma:g}")

    @torch.no_grad()
    def init_from_data(self, model: nn.Module, batches: Batches) -> None:
        """A = ⁴√out/√γ · V₁..ᵣ and B = ⁴√out/√γ · U_{r+1..2r} of the gradient's singular vectors (section 3.3)."""
        gradients = batches.gradients()
        for layer in batches.layers:
            r = len(layer.lora_A)
            check_rank(2 * r, layer.site, "2r")
            U, _, V = singular(gradients[layer.site.path])
            size = layer.site.out_features**0.25 / self.gamma**0.5
            layer.lora_A.copy_(size * V[:r])
            layer.lora_B.copy_(size * U[:, r : 2 * r])
