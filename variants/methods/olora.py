"""OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models (Büyükakyüz 2024, arXiv 2406.01775)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.layer import wide
from variants.methods.pissa import PiSSA, PiSSALayer
from variants.registry import register


class OLoRALayer(PiSSALayer):
    """h = (W₀ - sQ_rR_r)x + s·BAx with W₀ = QR, B = Q_r and A = R_r at the start (algorithm 1)."""

    def start(self, weight: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """The first r columns of Q and rows of R."""
        Q, R = torch.linalg.qr(wide(weight.detach()))
        return Q[:, :r], R[:r]


@register("olora")
@dataclass
class OLoRA(PiSSA):
    """OLoRA: LoRA that starts from the first columns and rows of the weight's QR factors (arXiv 2406.01775)."""

    layer = OLoRALayer
