"""LoRA+: Efficient Low Rank Adaptation of Large Models (Hayou et al. 2024, arXiv 2402.12354)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from variants.errors import VariantError
from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register


@register("lora_plus")
@dataclass
class LoRAPlus(LoRA):
    """LoRA+: LoRA whose B learns at a multiple of A's rate (arXiv 2402.12354).

    Args:
        ratio: λ, the rate of B over that of A, which is the run's.
    """

    ratio: float = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio <= 0:
            raise VariantError(f"ratio must be above 0, not {self.ratio:g}")

    def param_groups(self, layers: Sequence[LoRALayer], lr: float) -> list[dict[str, Any]]:
        """A at η, B at λη (section 4)."""
        A, B = [layer.lora_A for layer in layers], [layer.lora_B for layer in layers]
        return [{"params": A, "lr": lr}, {"params": B, "lr": self.ratio * lr}]
