"""LoRA-Pro: Are Low-Rank Adapters Properly Optimized? (Wang et al. 2024, arXiv 2407.18242)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register

DAMPING = 1e-3
"""Of AAᵀ and BᵀB, times their largest eigenvalue: while B is small its directions have hardly an inverse."""


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

    X solves BᵀB·X + X·AAᵀ = -(BᵀB)⁻¹·of_A·Aᵀ/s², in the eigenvectors of both. Where B = 0, of_A is too.
    """
    (a, P), (b, Q) = decomposed(A @ A.mT), decomposed(B.mT @ B)
    inverse_A, inverse_B = P / a @ P.mT, Q / b @ Q.mT
    X = -Q @ ((Q.mT @ inverse_B @ of_A @ A.mT @ P) / (b.mT + a)) @ P.mT / s**2
    rest = of_B - B @ inverse_B @ (B.mT @ of_B)
    return inverse_B @ of_A / s**2 + X @ A, rest @ inverse_A / s**2 - B @ X


def decomposed(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, damped, as a row (1, r), and eigenvectors (r, r)."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp_min(0) + DAMPING * values[..., -1:].clamp_min(1e-30)  # the last is the largest
    return values[..., None, :], vectors
