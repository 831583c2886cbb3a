"""LoRA-FA: Memory-efficient Low-rank Adaptation (Zhang et al. 2023, arXiv 2308.03303)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register


class LoRAFALayer(LoRALayer):
    """h = W₀x + (α/r)·B·A·x, with A frozen at its random start and B = 0 (section 3.1)."""

    def __init__(self, site, config: LoRAFA, rng: torch.Generator) -> None:
        super().__init__(site, config, rng)
        A = self.lora_A.detach()
        del self.lora_A
        self.register_buffer("lora_A", A)


@register("lora_fa")
@dataclass
class LoRAFA(LoRA):
    """LoRA-FA: LoRA whose A stays as it was drawn, so that B alone trains (arXiv 2308.03303)."""

    layer = LoRAFALayer
    rank_option = "r"
