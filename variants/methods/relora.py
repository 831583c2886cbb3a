"""ReLoRA: High-Rank Training Through Low-Rank Updates (Lialin et al. 2023, arXiv 2307.05695)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from variants.errors import VariantError
from variants.layer import LowRank
from variants.methods.lora import LoRA, LoRALayer
from variants.registry import register


class ReLoRALayer(LoRALayer):
    """h = W₀x + s·(B₁A₁ + ... + B_NA_N)x, of which the last pair trains and those before are frozen (eq. 1).

    The paper adds a pair to the weight when the next begins; here it stands beside it, so that the file holds all.
    """

    def __init__(self, site, config: ReLoRA, rng: torch.Generator) -> None:
        super().__init__(site, config, rng)
        past = (config.cycles - 1) * config.r
        self.register_buffer("past_A", torch.zeros(past, site.in_features))
        self.register_buffer("past_B", torch.zeros(site.out_features, past))
        drawn = torch.empty(past, site.in_features).uniform_(-1, 1, generator=rng) / math.sqrt(site.in_features)
        self.register_buffer("next_A", drawn, persistent=False)  # as LoRA's A is drawn

    def low_rank(self) -> LowRank:
        """All pairs side by side."""
        A, B = torch.cat([self.past_A, self.lora_A]), torch.cat([self.past_B, self.lora_B], dim=1)
        return LowRank(A, B, self.scaling)

    def restart(self, cycle: int) -> None:
        """Put the pair of cycle 1, 2, ... aside, and start the next."""
        r = len(self.lora_A)
        place = slice((cycle - 1) * r, cycle * r)
        self.past_A[place], self.past_B[:, place] = self.lora_A, self.lora_B
        self.lora_A.copy_(self.next_A[place])
        self.lora_B.zero_()


@register("relora")
@dataclass
class ReLoRA(LoRA):
    """ReLoRA: several LoRAs are trained one after the other and added up, to a higher rank (arXiv 2307.05695).

    Args:
        cycles: N, how many; each gets as many steps.
    """

    cycles: int = 3

    layer = ReLoRALayer
    rank_option = "r"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycles < 1:
            raise VariantError(f"cycles must be at least 1, not {self.cycles}")

    @torch.no_grad()
    def after_step(self, layers: Sequence[ReLoRALayer], step: int, total_steps: int) -> Iterable[nn.Parameter] | None:
        """A restart at the end of each cycle but the last; moments start anew."""
        cycle, before = (k * self.cycles // total_steps for k in (step, step - 1))
        if cycle == before or cycle == self.cycles:
            return None
        for layer in layers:
            layer.restart(cycle)
        return [parameter for layer in layers for parameter in (layer.lora_A, layer.lora_B)]
