"""GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection (Zhao et al. 2024, arXiv 2403.03507)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from variants.errors import VariantError
from variants.methods.full import Full
from variants.registry import register


class GaLoreAdamW(torch.optim.Optimizer):
    """Adam on gradients projected to rank r, PᵀG or GP, its step projected back and scaled (algorithm 2).

    P, the leading singular vectors on the gradient's shorter side, is computed anew every ``gap`` steps. Vectors, and
    matrices no wider than the rank, take AdamW's own steps.
    """

    def __init__(self, groups: list[dict[str, Any]], rank: int, gap: int, scale: float, betas=(0.9, 0.999)) -> None:
        super().__init__(groups, {"lr": 1e-3, "weight_decay": 0.0, "betas": betas, "eps": 1e-8})
        self.rank, self.gap, self.scale = rank, gap, scale

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                self._update(parameter, self.state[parameter], group)
        return loss

    def _update(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        gradient, (first, second) = parameter.grad, group["betas"]
        projects = gradient.ndim == 2 and self.rank < min(gradient.shape)
        t = state["step"] = state.get("step", 0) + 1
        if projects:
            if (t - 1) % self.gap == 0:
                U, _, V = torch.linalg.svd(gradient.float(), full_matrices=False)
                tall = gradient.shape[0] >= gradient.shape[1]
                state["P"] = (V[: self.rank].mT if tall else U[:, : self.rank]).to(gradient)
            P = state["P"]
            gradient = gradient @ P if len(P) == gradient.shape[1] else P.mT @ gradient
        if "exp_avg" not in state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
        m = state["exp_avg"].lerp_(gradient, 1 - first)
        v = state["exp_avg_sq"].lerp_(gradient.square(), 1 - second)
        change = m / (1 - first**t) / ((v / (1 - second**t)).sqrt() + group["eps"])
        if projects:
            change = self.scale * (change @ P.mT if len(P) == parameter.shape[1] else P @ change)
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-group["lr"])


@register("galore")
@dataclass
class GaLore(Full):
    """GaLore: full fine-tuning whose optimizer sees gradients of low rank; a contrast, no adapter (arXiv 2403.03507).

    Args:
        r: rank of the projected gradients.
        gap: steps between two projections.
        scale: α, of what a projected step adds.
    """

    r: int = 4
    gap: int = 500
    scale: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.r, self.gap) < 1:
            raise VariantError(f"r={self.r} and gap={self.gap} must be at least 1")

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam on projected gradients."""
        return GaLoreAdamW(groups, self.r, self.gap, self.scale)
