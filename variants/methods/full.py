"""Full fine-tuning: every parameter of the backbone trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from variants.registry import register
from variants.variant import BaseVariant


@register("full")
@dataclass
class Full(BaseVariant):
    """Full fine-tuning: every parameter of the model trains; the yardstick of every paper."""

    stackable = False  # nothing is shared

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """Every parameter."""
        return [name for name, _ in model.named_parameters()]
