"""LoRA-Pro: Are Low-Rank Adapters Properly Optimized? (Wang et al. 2024, arXiv 2407.18242)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register

SMALLEST = 1e-8
"""Eigenvalues of AAᵀ and BᵀB, relative to the largest, below which a direction has no inverse."""


@register("lora_pro")
@dataclass
class LoRAPro(LoRA):
    """LoRA-Pro: LoRA whose gradients are changed so that its step is as near as goes to one of full fine-tuning (arXiv
    2407.18242)."""

    @torch.no_grad()
    def before_step(self, layers: Sequence[LoRALayer], step: int, total_steps: int) -> None:
        """The gradients of theorem 2.1, with X of theorem 2.2."""
        for layer in layers:
            A, B = layer.lora_A, layer.lora_B
            if A.grad is not None and B.grad is not None:
                given = (tensor.double() for tensor in (A, B, A.grad, B.grad))
                for parameter, gradient in zip((A, B), adjusted(*given, layer.scaling), strict=True):
                    parameter.grad.copy_(gradient)


def adjusted(A: Tensor, B: Tensor, of_A: Tensor, of_B: Tensor, s: float) -> tuple[Tensor, Tensor]:
    """g_A = (BᵀB)⁻¹·of_A/s² + XA and g_B = (I - B(BᵀB)⁻¹Bᵀ)·of_B·(AAᵀ)⁻¹/s² - BX.

    X solves BᵀB·X + X·AAᵀ = -(BᵀB)⁻¹·of_A·Aᵀ/s² in the eigenvectors of both. Directions in which B is 0, as all are
    at the start, keep LoRA's own gradient of A.
    """
    (a, P), (b, Q) = torch.linalg.eigh(A @ A.mT), torch.linalg.eigh(B.mT @ B)
    a_inverse, b_inverse = inverted(a), inverted(b)
    inverse_B = Q * b_inverse @ Q.mT
    right = -inverse_B @ of_A @ A.mT / s**2
    sums = b[:, None] + a
    X = Q @ ((Q.mT @ right @ P) * torch.where(sums > 0, 1 / sums.clamp_min(1e-30), 0)) @ P.mT
    unreached = Q * (b_inverse == 0) @ Q.mT
    rest = of_B - B @ inverse_B @ (B.mT @ of_B)
    g_A = inverse_B @ of_A / s**2 + X @ A + unreached @ of_A
    return g_A, rest @ (P * a_inverse @ P.mT) / s**2 - B @ X


def inverted(values: Tensor) -> Tensor:
    """1/λ, and 0 of what is too small."""
    return torch.where(values > SMALLEST * values.max().clamp_min(1e-30), 1 / values.clamp_min(1e-30), 0)
