"""AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning (Zhang et al. 2023, arXiv 2303.10512)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import AdapterLayer, LowRank, check_alpha, check_rank
from variants.registry import register
from variants.variant import Variant

FACTORS = {"lora_A": 0, "lora_E": 0, "lora_B": 1}
"""Q, Λ and P, and the dimension of each that counts the triplets."""
AVERAGES = {f"{name}_{average}": name for name in FACTORS for average in ("sensitivity", "uncertainty")}
"""Averages of a factor's entries, each of its shape -> that factor."""


class AdaLoRALayer(AdapterLayer):
    """W = W₀ + s·PΛQ with P = lora_B (out, r), Λ = diag(lora_E) (r), Q = lora_A (r, in), Λ = 0 at the start (eq. 3).

    Each factor has the averages of its sensitivity (eq. 9) and uncertainty (eq. 10); ``kept`` (r) says which triplets
    the budget keeps. P and Q of a pruned triplet stay, so that it can come back.
    """

    resizable = FACTORS | {average: FACTORS[name] for average, name in AVERAGES.items()} | {"kept": 0}
    training_only = ("kept", *AVERAGES)

    def __init__(self, site, config: AdaLoRA, rng: torch.Generator) -> None:
        super().__init__(site, config)
        r = check_rank(config.init_r, site, "init_r")
        self.lora_A = nn.Parameter(torch.empty(r, site.in_features).normal_(0, 0.02, generator=rng))
        self.lora_B = nn.Parameter(torch.empty(site.out_features, r).normal_(0, 0.02, generator=rng))
        self.lora_E = nn.Parameter(torch.zeros(r))
        self.scaling = check_alpha(config.alpha) / r
        self.register_buffer("kept", torch.ones(r))
        for average, name in AVERAGES.items():
            self.register_buffer(average, torch.zeros_like(getattr(self, name)))

    def low_rank(self) -> LowRank:
        """s·PΛQ (eq. 3)."""
        return LowRank(self.lora_A, self.lora_B, self.scaling, inner=self.lora_E)

    def averages(self, name: str) -> tuple[Tensor, Tensor]:
        """Ī and Ū of a factor, of its shape."""
        return getattr(self, f"{name}_sensitivity"), getattr(self, f"{name}_uncertainty")

    def trimmed(self) -> dict[str, Tensor]:
        """The triplets that add something, and which ones they are."""
        left = (self.kept > 0) | (self.lora_E != 0)  # the other triplets add nothing
        A, E, B = self.lora_A[left], self.lora_E[left], self.lora_B[:, left]
        return {"lora_A": A, "lora_E": E, "lora_B": B, "kept": left.to(self.kept)}

    def completed(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Pruned triplets come back as zeros; averages start anew."""
        ranks = [tensors[name].shape[dim] for name, dim in FACTORS.items()]
        kept = tensors.get("kept", torch.ones(ranks[1]))
        left = kept.nonzero().flatten()
        if len(set(ranks)) > 1 or ranks[0] not in (len(kept), len(left)):
            raise VariantError(f"the tensors of {self.site.path} are of ranks {', '.join(map(str, ranks))}")
        if ranks[0] < len(kept):  # pruned triplets come back as zeros, which leave every sum as it was
            tensors = tensors | {name: spread(tensors[name], dim, left, len(kept)) for name, dim in FACTORS.items()}
        return (
            {name: torch.zeros_like(tensors[name.rpartition("_")[0]]) for name in AVERAGES} | tensors | {"kept": kept}
        )


def spread(tensor: Tensor, dim: int, places: Tensor, size: int) -> Tensor:
    """``tensor`` at ``places`` of a dimension that has ``size`` entries, zeros elsewhere."""
    return tensor.new_zeros(*tensor.shape[:dim], size, *tensor.shape[dim + 1 :]).index_copy(dim, places, tensor)


def best(scores: Tensor, budget: int) -> Tensor:
    """1 for the ``budget`` highest of the scores, of equal ones the first, and 0 for the others."""
    return torch.zeros_like(scores).index_fill_(0, scores.sort(descending=True, stable=True).indices[:budget], 1.0)


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
            raise VariantError(f"target_r={self.target_r} must lie between 0 and init_r={self.init_r}, at least 1")
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
        left = min(1.0, max(0.0, 1 - (step - first) / (last - first)))
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
            self.prune(layers)

    def update_importance(self, layers: Sequence[AdaLoRALayer]) -> None:
        """Ī and Ū of every entry, Ū against the Ī of this step."""
        for layer in layers:
            for name in FACTORS:
                w, (sensitivity, uncertainty) = getattr(layer, name), layer.averages(name)
                importance = (w * (0 if w.grad is None else w.grad)).abs()  # eq. 8; None: no pass reached the layer
                sensitivity.lerp_(importance, 1 - self.beta1)  # eq. 9
                uncertainty.lerp_((importance - sensitivity).abs(), 1 - self.beta2)  # eq. 10

    def scores(self, layers: Sequence[AdaLoRALayer]) -> Tensor:
        """S of each triplet of all layers: s(λ) + mean s(P) + mean s(Q) with s = Ī·Ū (eqs. 7, 11), (triplets)."""
        s = [[torch.mul(*layer.averages(name)) for name in FACTORS] for layer in layers]
        return torch.cat([E + Q.mean(dim=1) + P.mean(dim=0) for Q, E, P in s])

    def allocate(self, layers: Sequence[AdaLoRALayer], budget: int) -> None:
        """Keep exactly ``budget`` triplets, the best over all layers; of equal scores the earlier layer's first."""
        kept = best(self.scores(layers), budget).split([len(layer.kept) for layer in layers])
        for layer, own in zip(layers, kept, strict=True):
            layer.kept.copy_(own)

    def prune(self, layers: Sequence[AdaLoRALayer]) -> None:
        """λ of the triplets that are not kept becomes 0 (eq. 6)."""
        for layer in layers:
            layer.lora_E.mul_(layer.kept)

    def penalty(self, layers: Sequence[AdaLoRALayer], step: Tensor, total_steps: int) -> Tensor:
        """γ times the mean Frobenius norm of QQᵀ - I and PᵀP - I over all Q and P (R of eq. 4, as in the code)."""
        grams = [layer.lora_A @ layer.lora_A.mT for layer in layers] + [P.mT @ P for P in (x.lora_B for x in layers)]
        norms = [torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)) for gram in grams]
        return self.orth_weight * torch.stack(norms).mean()

    def metrics(self, layers: Sequence[AdaLoRALayer]) -> dict[str, float]:
        """The rank of each matrix, their mean and the budget that is spent."""
        ranks = {f"rank/{layer.site.path}": int(layer.kept.sum()) for layer in layers}
        return {"mean_rank": sum(ranks.values()) / len(ranks), "budget": sum(ranks.values()), **ranks}
