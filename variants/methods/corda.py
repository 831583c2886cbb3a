"""CorDA: Context-Oriented Decomposition Adaptation of Large Language Models (Yang et al. 2024, arXiv 2406.05223)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from variants.methods.pissa import PiSSA, singular
from variants.registry import register

if TYPE_CHECKING:
    from variants.training.batches import Batches

DAMPING = 0.01
"""Of the covariance, times its mean diagonal, so that it has an inverse."""


@register("corda")
@dataclass
class CorDA(PiSSA):
    """CorDA: LoRA that starts as a part of the weight by what data excite of it, to learn a task or to keep what is
    known (arXiv 2406.05223).

    Args:
        mode: ipm (the r largest components train, for the task's instructions) or kpm (the r smallest, which keeps
            what the batches show).
    """

    mode: Literal["ipm", "kpm"] = "ipm"

    @torch.no_grad()
    def init_from_data(self, model: nn.Module, batches: Batches) -> None:
        """U√S and √S·V C⁻¹ of r components of W₀C = U S V, where C is the covariance of the inputs (eqs. 1 to 4)."""
        grams: dict[str, torch.Tensor] = {}
        for inputs in batches.inputs():
            for path, x in inputs.items():
                grams[path] = grams.get(path, 0) + x.mT @ x
        for layer in batches.layers:
            C, r = grams[layer.site.path], len(layer.lora_A)
            C = C / C.diagonal().mean() + DAMPING * torch.eye(len(C), device=C.device, dtype=C.dtype)
            U, S, V = singular((layer.site.weight() + layer.delta_weight()).to(C) @ C)
            part = slice(None, r) if self.mode == "ipm" else slice(-r, None)
            B, A = layer.roots(U[:, part], S[part], torch.linalg.solve(C, V[part], left=False))
            layer.lora_A.copy_(A)
            layer.lora_B.copy_(B)
