"""Adapters as training leaves them, on two tiny models: what B = 0 or b = 0 hides shows."""

import torch
from torch import Tensor, nn

from tests.support.models import MODELS, inputs
from variants import LoRA, attach
from variants.adapters.adapted_model import AdaptedModel
from variants.methods.lora import LoRALayer
from variants.variant import Variant


class OffLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        nn.init.normal_(self.lora_B, generator=rng)


class Off(LoRA):
    """Its update is not zero at the start, and its first value is taken off the base weight."""

    layer = OffLayer
    name = "off"
    subtract_initial = True


roberta, gpt2 = MODELS["roberta"], MODELS["gpt2"]
BATCH = inputs("roberta", batch=4)
"""Four rows of unequal lengths."""


@torch.no_grad()
def train(parameters: dict[str, Tensor], seed: int) -> None:
    """Stand in for training: move every parameter, each in its own direction."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters.values():
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


@torch.no_grad()
def logits(model: nn.Module, row: int | None = None) -> Tensor:
    """Of the whole batch, or of one row alone."""
    batch = {key: tensor if row is None else tensor[row : row + 1] for key, tensor in BATCH.items()}
    return model.eval()(**batch).logits


def trained(model: nn.Module, variant: Variant) -> AdaptedModel:
    adapted = attach(model, variant)
    train(adapted.trained(), 1)
    return adapted
