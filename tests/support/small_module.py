"""A model of two small blocks, two variants for it, and stand-ins for training and evaluating it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from variants import AdapterLayer, LoRA, Variant
from variants.contract.models import Tiny

X = torch.randn(4, 5, 16, generator=torch.Generator().manual_seed(3))

DROPOUT = LoRA(r=4, dropout=0.5, target="all-linear")


class TopLayer(AdapterLayer):
    """The r largest singular triples train; the base keeps the rest."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        u, s, vt = torch.linalg.svd(site.weight().detach().float(), full_matrices=False)
        self.lora_A, self.lora_B = nn.Parameter(vt[: config.r].clone()), nn.Parameter(u[:, : config.r] * s[: config.r])

    def delta_weight(self):
        return self.lora_B @ self.lora_A


@dataclass
class Top(Variant):
    r: int = 4
    layer = TopLayer
    subtract_initial = True


@dataclass
class Biases(Variant):
    """LoRA's sites, and every bias of the backbone beside them."""

    r: int = 2
    alpha: float = 2.0
    dropout: float = 0.0
    init: str = "kaiming"
    rslora: bool = False
    layer = LoRA.layer

    def trainable(self, model):
        return [name for name, _ in model.base_model.named_parameters(prefix="base_model") if name.endswith("bias")]


def tiny(kind: str = "plain", depth: int = 2) -> Tiny:
    return Tiny(kind, depth=depth).eval()


@torch.no_grad()
def out(model: nn.Module) -> Tensor:
    return model.eval()(X.to(next(model.parameters()).dtype))


@torch.no_grad()
def train(adapted, seed: int = 0) -> None:
    """Stand in for training: every trained tensor somewhere else."""
    rng = torch.Generator().manual_seed(seed)
    for tensor in adapted.trained().values():
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=rng).to(tensor.dtype))
