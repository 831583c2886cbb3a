"""FT^Top2: the baseline of Li and Liang 2021 (arXiv 2101.00190) that fine-tunes the top two blocks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from variants.errors import VariantError
from variants.registry import register
from variants.variant import BaseVariant


@register("ft_top2")
@dataclass
class FTTop2(BaseVariant):
    """FT^Top2: every parameter of the last blocks trains, two of them in the papers (arXiv 2101.00190).

    Args:
        top: how many of the last blocks train.
    """

    top: int = 2

    stackable = False  # whole blocks would be stacked
    size = "top"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise VariantError(f"top must be at least 1, not {self.top}")

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """Every parameter of the last ``top`` blocks."""
        from variants.sites.blocks import blocks

        paths = list(blocks(model))
        if self.top > len(paths):
            raise VariantError(f"top={self.top} is more than the {len(paths)} blocks of {type(model).__name__}")
        last = tuple(f"{path}." for path in paths[-self.top :])
        return [name for name, _ in model.named_parameters() if name.startswith(last)]
