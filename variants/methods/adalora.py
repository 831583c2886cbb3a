"""AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning (Zhang et al. 2023, arXiv 2303.10512)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.acceleration.elementwise import scale
from variants.acceleration.low_rank import Product, project
from variants.errors import VariantError
from variants.grouping import alike, stacked
from variants.layer import AdapterLayer, check_rank
from variants.registry import register
from variants.variant import Variant

FACTORS = {"lora_A": 0, "lora_E": 0, "lora_B": 1}
"""Q, Λ and P, and the dimension of each that counts the triplets."""
AVERAGES = {f"{name}_{figure}": dim for name, dim in FACTORS.items() for figure in ("sensitivity", "uncertainty")}


class AdaLoRALayer(AdapterLayer):
    """W = W₀ + s·PΛQ with P = lora_B (out, r), Λ = diag(lora_E) (r), Q = lora_A (r, in), Λ = 0 at the start (eq. 3).

    Beside each factor stand the averages of its sensitivity (eq. 9) and uncertainty (eq. 10); ``kept`` (r) says which
    triplets the budget keeps. P and Q of a pruned triplet stay, so that it can come back.
    """

    resizable = {**FACTORS, **AVERAGES, "kept": 0}
    training_only = ("kept", *AVERAGES)
    per_token = True
    low_precision = ("lora_E",)
    rank_dims = FACTORS

    def __init__(self, site, config: AdaLoRA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        r = check_rank(config.init_r, site, "init_r")
        self.lora_A = nn.Parameter(torch.empty(r, site.in_features).normal_(0, 0.02, generator=rng))
        self.lora_B = nn.Parameter(torch.empty(site.out_features, r).normal_(0, 0.02, generator=rng))
        self.lora_E = nn.Parameter(torch.zeros(r))
        self.dropout = nn.Dropout(config.dropout)
        self.scaling = config.alpha / r
        self.register_buffer("kept", torch.ones(r))
        for name in AVERAGES:
            self.register_buffer(name, torch.zeros_like(getattr(self, name[:6])))

    def delta_weight(self) -> Tensor:
        return self.scaling * (self.lora_B * self.lora_E) @ self.lora_A

    def product(self, x: Tensor) -> Product:
        return Product(scale(self.lora_E, project(self.after_dropout(x), self.lora_A)), self.lora_B, self.scaling)

    @torch.no_grad()
    def shrink(self) -> None:
        """Drop the pruned triplets for good; the output stays. Optimizers made before do not fit the layer any more."""
        left = self.trimmed()
        for name, tensor in self.completed({name: left[name] for name in FACTORS}).items():
            own = getattr(self, name)
            own.data, own.grad = tensor, None

    def trimmed(self) -> dict[str, Tensor]:
        left = (self.kept > 0) | (self.lora_E != 0)  # the other triplets add nothing
        A, E, B = self.lora_A[left], self.lora_E[left], self.lora_B[:, left]
        return {"lora_A": A, "lora_E": E, "lora_B": B, "kept": left.to(self.kept)}

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        A, E, B = (tensors[name] for name in FACTORS)
        kept = tensors.get("kept", torch.ones_like(E))
        left = kept.nonzero().flatten()
        if not len(A) == len(E) == B.shape[1] or len(E) not in (len(kept), len(left)):
            raise VariantError(f"the tensors of {self.site.path} are of ranks {len(A)}, {len(E)} and {B.shape[1]}")
        if len(E) < len(kept):  # pruned triplets come back as zeros, which leave every sum as it was
            A = A.new_zeros(len(kept), A.shape[1]).index_copy(0, left, A)
            E = E.new_zeros(len(kept)).index_copy(0, left, E)
            B = B.new_zeros(B.shape[0], len(kept)).index_copy(1, left, B)
        tensors = tensors | {"lora_A": A, "lora_E": E, "lora_B": B, "kept": kept}
        return {name: torch.zeros_like(tensors[name[:6]]) for name in AVERAGES} | tensors


@register("adalora")
@dataclass
class AdaLoRA(Variant):
    """AdaLoRA: an SVD-like update with a global budget, given to the triplets that matter (arXiv 2303.10512).

    Args:
        init_r: rank of every matrix at the start.
        target_r: mean rank that the budget ends with.
        alpha: scaling; the update is multiplied by alpha/init_r throughout.
        dropout: probability of dropping an input of Q while training.
        tinit: warm-up before the budget shrinks: a share of the optimizer steps (below 1) or steps.
        tfinal: final phase with fixed ranks, likewise.
        deltaT: steps between two allocations.
        beta1: smoothing of the sensitivity.
        beta2: smoothing of the uncertainty.
        orth_weight: γ of the orthogonality penalty, in the form of the authors' code (mean of unsquared norms).
    """

    init_r: int = 12
    target_r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    tinit: float = 0.1
    tfinal: float = 0.3
    deltaT: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orth_weight: float = 0.1

    layer = AdaLoRALayer
    size = "init_r"

    def __post_init__(self) -> None:
        if not 0 <= self.target_r <= self.init_r or self.init_r < 1:
            raise VariantError(
                f"target_r={self.target_r} must lie between 0 and init_r={self.init_r}, which is at least 1"
            )
        if self.tinit < 0 or self.tfinal < 0 or (self.tinit < 1 and self.tfinal < 1 and self.tinit + self.tfinal >= 1):
            raise VariantError(f"tinit={self.tinit} and tfinal={self.tfinal} leave no step for the budget to shrink")
        if self.deltaT < 1:
            raise VariantError(f"deltaT must be at least 1, not {self.deltaT}")

    def sized(self, size: int) -> AdaLoRA:
        """The ranks at the start decide what trains; those at the end keep their proportion to them."""
        return dataclasses.replace(self, init_r=size, target_r=max(1, round(size * self.target_r / self.init_r)))

    def budget(self, step: int, total_steps: int, start: int, target: int) -> int:
        """Triplets kept after ``step``: the cubic schedule of eq. 14 as in the code, without the misprinted -t_f."""
        first, last = self.phases(total_steps)
        if step <= first:
            return start
        left = max(0.0, 1 - (step - first) / (last - first))
        return int(target + (start - target) * left**3)

    def phases(self, total_steps: int) -> tuple[int, int]:
        """(last step of the warm-up, first step of the final phase)."""
        tinit, tfinal = (int(t * total_steps) if t < 1 else int(t) for t in (self.tinit, self.tfinal))
        if tinit >= total_steps - tfinal:
            raise VariantError(f"tinit={tinit} and tfinal={tfinal} do not fit into {total_steps} optimizer steps")
        return tinit, total_steps - tfinal

    @torch.no_grad()
    def after_step(self, layers: Sequence[AdaLoRALayer], step: int, total_steps: int) -> None:
        """Algorithm 1: importance from this step's gradients, and the budget to the triplets that score highest."""
        first, last = self.phases(total_steps)
        if step < last:
            self.update_importance(layers)
        if allocating := step == last or (first < step < last and step % self.deltaT == 0):
            start = sum(len(layer.lora_E) for layer in layers)
            self.allocate(layers, self.budget(step, total_steps, start, self.target_r * len(layers)))
        if allocating or step > last:  # in the final phase the same triplets again and again
            torch._foreach_mul_([layer.lora_E for layer in layers], [layer.kept for layer in layers])

    def update_importance(self, layers: Sequence[AdaLoRALayer]) -> None:
        """Ī and Ū of every entry (eqs. 9, 10), Ū against the Ī of this step; I = |w·∂L/∂w| (eq. 8)."""
        weights = [getattr(layer, name) for layer in layers for name in FACTORS]
        sensitivity = [getattr(layer, f"{name}_sensitivity") for layer in layers for name in FACTORS]
        uncertainty = [getattr(layer, f"{name}_uncertainty") for layer in layers for name in FACTORS]
        current = torch._foreach_abs(torch._foreach_mul(weights, [w.grad for w in weights]))
        torch._foreach_lerp_(sensitivity, current, 1 - self.beta1)
        deviation = torch._foreach_abs(torch._foreach_sub(current, sensitivity))
        torch._foreach_lerp_(uncertainty, deviation, 1 - self.beta2)

    def scores(self, layers: Sequence[AdaLoRALayer]) -> list[Tensor]:
        """S of each triplet, (r) per layer: s(λ) + mean s(P) + mean s(Q) with s = Ī·Ū (eqs. 7, 11)."""
        scores: dict[int, Tensor] = {}
        for group in alike(layers, *FACTORS):
            A, E, B = (
                stacked(group, f"{name}_sensitivity") * stacked(group, f"{name}_uncertainty") for name in FACTORS
            )
            rows = (E + A.mean(dim=2) + B.mean(dim=1)).unbind()
            scores |= {id(layer): row for layer, row in zip(group, rows, strict=True)}
        return [scores[id(layer)] for layer in layers]

    def allocate(self, layers: Sequence[AdaLoRALayer], budget: int) -> None:
        """Keep exactly ``budget`` triplets, the best over all layers; of equal scores the earlier layer's first."""
        scores = torch.cat(self.scores(layers))
        best = scores.sort(descending=True, stable=True).indices[:budget]
        kept = torch.zeros_like(scores).index_fill_(0, best, 1.0)
        torch._foreach_copy_([layer.kept for layer in layers], kept.split([len(layer.kept) for layer in layers]))

    def penalty(self, layers: Sequence[AdaLoRALayer]) -> Tensor:
        """γ times the mean Frobenius norm of PᵀP - I and QQᵀ - I over all P and Q (R of eq. 4, as in the code)."""
        norms = []
        for group in alike(layers, *FACTORS):
            A, B = stacked(group, "lora_A"), stacked(group, "lora_B")
            identity = torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
            norms += [torch.linalg.matrix_norm(gram - identity) for gram in (A @ A.mT, B.mT @ B)]
        return self.orth_weight * torch.cat(norms).mean()

    def metrics(self, layers: Sequence[AdaLoRALayer]) -> dict[str, float]:
        ranks = torch.stack([layer.kept.sum() for layer in layers]).int().tolist()
        each = {f"rank/{layer.site.path}": rank for layer, rank in zip(layers, ranks, strict=True)}
        return {"mean_rank": sum(ranks) / len(ranks), "budget": sum(ranks), **each}
