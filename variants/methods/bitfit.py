"""BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models (Ben Zaken et al. 2022,
arXiv 2106.10199)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from variants.errors import VariantError
from variants.registry import register
from variants.variant import BaseVariant


@register("bitfit")
@dataclass
class BitFit(BaseVariant):
    """BitFit: the backbone's bias vectors train, those of its LayerNorms too, and nothing else (arXiv 2106.10199)."""

    def trainable(self, model: nn.Module) -> Iterable[str]:
        """The bias vectors outside the task head."""
        from variants.sites.architectures import architecture_of, head_parameters

        head, called = set(head_parameters(model)), {"bias", *architecture_of(model).biases}
        names = [name for name, _ in model.named_parameters() if name.rpartition(".")[2] in called]
        biases = [name for name in names if name not in head]
        if not biases:
            raise VariantError(
                f"{type(model).__name__} has no bias vectors outside its head: BitFit has nothing to train"
            )
        return biases
