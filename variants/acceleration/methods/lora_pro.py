"""LoRA-Pro before steps: the gradients of all layers of a shape in few operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from variants.acceleration.basics import torch_private
from variants.acceleration.basics.fast_paths import UPDATES, replaces
from variants.acceleration.methods.grouping import alike, stacked
from variants.methods.lora import LoRALayer
from variants.methods.lora_pro import LoRAPro, adjusted


@replaces(UPDATES, LoRAPro.before_step)
@torch.no_grad()
def before_step(variant: LoRAPro, layers: Sequence[LoRALayer], step: int, total_steps: int) -> None:
    """As :meth:`LoRAPro.before_step`, layers of one shape together."""
    trained = [layer for layer in layers if layer.lora_A.grad is not None and layer.lora_B.grad is not None]
    for group in alike(trained, "lora_A", "lora_B", "scaling"):
        gradients = [[getattr(layer, name).grad for layer in group] for name in ("lora_A", "lora_B")]
        given = [stacked(group, "lora_A"), stacked(group, "lora_B"), *map(torch.stack, gradients)]
        for old, new in zip(gradients, adjusted(*(each.double() for each in given), group[0].scaling), strict=True):
            torch_private.foreach_copy_(old, list(new.to(old[0].dtype).unbind()))
