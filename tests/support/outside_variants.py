"""Methods from outside the package, as an inventor would write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from variants import AdapterLayer, LoRA, Variant, registry
from variants.methods.lora import LoRALayer


class PiSSALayer(AdapterLayer):
    """The principal singular triples train, the rest of W stays (arXiv 2404.02948)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        dtype = torch.promote_types(site.dtype, torch.float32)
        u, s, vt = torch.linalg.svd(site.weight().detach().to(dtype), full_matrices=False)
        root = s[: config.r].sqrt()
        self.lora_A = nn.Parameter(root[:, None] * vt[: config.r])
        self.lora_B = nn.Parameter(u[:, : config.r] * root)

    def delta_weight(self):
        return self.lora_B @ self.lora_A


@dataclass
class PiSSA(Variant):
    r: int = 4
    layer = PiSSALayer
    subtract_initial = True


class IA3Layer(AdapterLayer):
    """The output is scaled, bias included (arXiv 2205.05638)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.scale = nn.Parameter(torch.ones(site.out_features))

    def forward(self, x, y):
        return y * self.scale

    def merged(self, weight, bias):
        return weight * self.scale[:, None], None if bias is None else bias * self.scale


@dataclass
class IA3(Variant):
    target: str = "all-linear"
    layer = IA3Layer


class InputScaleLayer(AdapterLayer):
    """The input is scaled: the base map sees another x."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.scale = nn.Parameter(torch.ones(site.in_features))

    def pre(self, x):
        return x * self.scale

    def forward(self, x, y):
        return y

    def merged(self, weight, bias):
        return weight * self.scale, bias


@dataclass
class InputScale(Variant):
    layer = InputScaleLayer


class BottleneckLayer(AdapterLayer):
    """A small perceptron on the output: not linear, so that it cannot be merged (arXiv 1902.00751)."""

    def __init__(self, site, config, rng):
        super().__init__(site, config)
        self.down = nn.Parameter(torch.randn(config.r, site.out_features, generator=rng) / math.sqrt(site.out_features))
        self.up = nn.Parameter(torch.zeros(site.out_features, config.r))

    def forward(self, x, y):
        return y + F.linear(torch.tanh(F.linear(y, self.down)), self.up)


@dataclass
class Bottleneck(Variant):
    r: int = 4
    layer = BottleneckLayer
    mergeable = False


@dataclass
class BitFit(registry.BaseVariant):
    """Biases of the backbone train in place (arXiv 2106.10199)."""

    def trainable(self, model):
        return [name for name, _ in model.named_parameters() if name.endswith(".bias")]


@dataclass
class Ramp(LoRA):
    """LoRA whose B is drawn to zero, the more the longer it trains."""

    def penalty(self, layers, step, total_steps):
        return step / total_steps * sum(layer.lora_B.square().sum() for layer in layers)


@dataclass
class Normed(LoRA):
    """LoRA whose steps have one length in each layer: other gradients take the place of those that are given."""

    def before_step(self, layers, step, total_steps):
        for layer in layers:
            norm = torch.stack([p.grad.square().sum() for p in layer.parameters()]).sum().sqrt()
            for parameter in layer.parameters():
                parameter.grad = parameter.grad / norm.clamp(min=1e-12)


class QuietLayer(LoRALayer):
    """LoRA's, which notes how much it adds to a token."""

    reads_mask = True

    def forward(self, x, y):
        new = super().forward(x, y)
        size = (new - y).square().mean(-1)
        counts = torch.ones_like(size) if self.attention_mask is None else self.attention_mask
        self.added = (size * counts).sum() / counts.sum().clamp(min=1)
        return new


@dataclass
class Quiet(LoRA):
    """LoRA that is to add little to the tokens of a batch, in the second half of training."""

    layer = QuietLayer

    def penalty(self, layers, step, total_steps):
        return 30.0 * (2 * step > total_steps) * torch.stack([layer.added for layer in layers]).sum()


OUTSIDERS = [PiSSA, IA3, InputScale, Bottleneck, BitFit, Quiet]
