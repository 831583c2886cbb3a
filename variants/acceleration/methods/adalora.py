"""AdaLoRA between passes: importance, budget and penalty of all layers in few operations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from variants.acceleration.basics import torch_private
from variants.acceleration.basics.fast_paths import UPDATES, replaces
from variants.acceleration.methods.grouping import alike, stacked
from variants.methods.adalora import FACTORS, AdaLoRA, AdaLoRALayer, best


@replaces(UPDATES, AdaLoRA.update_importance)
def update_importance(variant: AdaLoRA, layers: Sequence[AdaLoRALayer]) -> None:
    """As :meth:`AdaLoRA.update_importance`, an operation for all tensors."""
    weights = [getattr(layer, name) for layer in layers for name in FACTORS]
    averages = [layer.averages(name) for layer in layers for name in FACTORS]
    sensitivity, uncertainty = map(list, zip(*averages, strict=True))
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    importance = torch_private.foreach_abs(torch_private.foreach_mul(weights, gradients))  # eq. 8
    torch_private.foreach_lerp_(sensitivity, importance, 1 - variant.beta1)  # eq. 9
    deviation = torch_private.foreach_abs(torch_private.foreach_sub(importance, sensitivity))
    torch_private.foreach_lerp_(uncertainty, deviation, 1 - variant.beta2)  # eq. 10


@replaces(UPDATES, AdaLoRA.scores)
def scores(variant: AdaLoRA, layers: Sequence[AdaLoRALayer]) -> Tensor:
    """As :meth:`AdaLoRA.scores`, layers of one shape together."""
    found: dict[AdaLoRALayer, Tensor] = {}
    for group in alike(layers, *FACTORS):
        Q, E, P = (stacked(group, f"{name}_sensitivity") * stacked(group, f"{name}_uncertainty") for name in FACTORS)
        found |= dict(zip(group, (E + Q.mean(dim=2) + P.mean(dim=1)).unbind(), strict=True))
    return torch.cat([found[layer] for layer in layers])


@replaces(UPDATES, AdaLoRA.allocate)
def allocate(variant: AdaLoRA, layers: Sequence[AdaLoRALayer], budget: int) -> None:
    """As :meth:`AdaLoRA.allocate`, with an operation for all layers' notes."""
    kept = best(variant.scores(layers), budget)
    torch_private.foreach_copy_([layer.kept for layer in layers], kept.split([len(layer.kept) for layer in layers]))


@replaces(UPDATES, AdaLoRA.prune)
def prune(variant: AdaLoRA, layers: Sequence[AdaLoRALayer]) -> None:
    """As :meth:`AdaLoRA.prune`, in one operation."""
    torch_private.foreach_mul_([layer.lora_E for layer in layers], [layer.kept for layer in layers])


@replaces(UPDATES, AdaLoRA.penalty)
def penalty(variant: AdaLoRA, layers: Sequence[AdaLoRALayer], step: Tensor, total_steps: int) -> Tensor:
    """As :meth:`AdaLoRA.penalty`, layers of one shape together."""
    norms = []
    for group in alike(layers, *FACTORS):
        Q, P = stacked(group, "lora_A"), stacked(group, "lora_B")
        identity = torch.eye(Q.shape[1], dtype=Q.dtype, device=Q.device)
        norms += [torch.linalg.matrix_norm(gram - identity) for gram in (Q @ Q.mT, P.mT @ P)]
    return variant.orth_weight * torch.cat(norms).mean()
