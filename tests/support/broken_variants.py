"""Variants that break the contract, each in its own way."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from variants import AdapterLayer, LoRA, Variant
from variants.methods.lora import LoRALayer

BROKEN: dict[type[Variant], set[str]] = {}
ACCELERATION = find_spec("variants.acceleration") is not None
LEFT_OUT = {
    name for name, there in {"accelerated": ACCELERATION, "nf4": find_spec("bitsandbytes")}.items() if not there
}
"""Properties that say nothing here."""


def breaks(*expected: str, **attributes):
    """Make a variant of the decorated layer, and note which properties it must be seen to break."""

    def decorate(layer):
        name = layer.__name__.removesuffix("Layer")
        members = {"layer": layer, "__module__": __name__, "__annotations__": {}, **attributes}
        variant = dataclass(type(name, (LoRA,), members))
        setattr(sys.modules[__name__], name, variant)  # where pickle looks for it
        BROKEN[variant] = set(expected) - LEFT_OUT
        return layer

    return decorate


@breaks("identity at start")
class StartsElsewhereLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        nn.init.normal_(self.lora_B, std=0.1, generator=rng)


@breaks("output moves")
class WithoutEffectLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.shift = nn.Parameter(torch.zeros(site.out_features))

    def forward(self, x, y):
        return super().forward(x, y) + (self.shift - self.shift.detach())


@breaks("gradients")
class TrainsTheBaseLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        site.module.bias.requires_grad_(True)


@breaks("gradients", "parameter count", "DDP")
class UnreachedLayer(LoRALayer):
    def forward(self, x, y):
        return y + self.scaling * F.linear(F.linear(x, self.lora_A.detach()), self.lora_B)


@breaks("output moves", "gradients", "parameter count", "DDP")
class UnusedLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.forgotten = nn.Parameter(torch.zeros(3))


@breaks("merge")
class MergesAnotherDeltaLayer(LoRALayer):
    def merged(self, weight, bias):
        return weight + 1.01 * self.delta_weight(), bias


@breaks("merge")
class MergesInPlaceLayer(LoRALayer):
    def merged(self, weight, bias):
        bias += 0.5
        return weight + self.delta_weight(), bias - 0.5


@breaks("merge")
class NotLinearLayer(LoRALayer):
    def forward(self, x, y):
        return y + self.scaling * F.linear(torch.tanh(F.linear(x, self.lora_A)), self.lora_B)


def _grow(self, layers, step, total_steps):
    for layer in layers:
        layer.gain.mul_(1.1)


@breaks("round trip", "resume", after_step=_grow)
class ForgetsStateLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("gain", torch.ones(()), persistent=False)

    def delta_weight(self):
        return self.gain * super().delta_weight()

    def forward(self, x, y):
        return y + F.linear(x, self.delta_weight())


@breaks("round trip", after_step=_grow)
class LeavesStateOutOfFilesLayer(LoRALayer):
    training_only = ("gain",)

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("gain", torch.ones(()))

    def delta_weight(self):
        return self.gain * super().delta_weight()


def _count(self, layers, step, total_steps):
    self.steps = getattr(self, "steps", 0) + 1
    for layer in layers:
        layer.lora_B.data.mul_(1 - 0.1 / self.steps)


@breaks("resume", after_step=_count, stackable=False)
class CountsItsStepsLayer(LoRALayer):
    pass


def _count_in_layers(self, layers, step, total_steps):
    for layer in layers:
        layer.past.append(step)
        if len(layer.past) % 1000 == 0:
            layer.lora_B.data.zero_()


@breaks("resume", after_step=_count_in_layers)
class RemembersItsStepsLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.past = []


@breaks("resume", before_step=lambda self, layers, step, total_steps: torch.manual_seed(7))
class SeedsEveryStepLayer(LoRALayer):
    pass


class _OwnMomentum(torch.optim.SGD):
    """Keeps its momentum where no checkpoint finds it."""

    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.momenta = getattr(self, "momenta", {})
        with torch.no_grad():
            for index, (group, p) in enumerate((g, p) for g in self.param_groups for p in g["params"]):
                self.momenta[index] = 0.9 * self.momenta.get(index, torch.zeros_like(p)) + p.grad
                p.sub_(group["lr"] * self.momenta[index])
        return loss


@breaks("resume", optimizer=lambda self, groups: _OwnMomentum(groups))
class HidesItsMomentumLayer(LoRALayer):
    pass


@breaks("bf16")
class IgnoresDtypesLayer(LoRALayer):
    def forward(self, x, y):
        return torch.lerp(y, super().forward(x, y), self.one)  # y is bf16, the weight is not

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("one", torch.ones(1))


@breaks("bf16")
class OverflowsLayer(LoRALayer):
    def forward(self, x, y):
        rough = y.dtype == torch.bfloat16
        return super().forward(x, y) * (float("inf") if rough else 1.0)


@breaks("nf4")
class LooksAtCodesLayer(LoRALayer):
    def forward(self, x, y):
        return super().forward(x, y) if self.site.module.weight.is_floating_point() else y


@breaks("fp64")
class InSinglePrecisionLayer(LoRALayer):
    def forward(self, x, y):
        delta = self.delta_weight()
        return y + F.linear(x, delta.float().to(delta.dtype))


@breaks("fp64")
class RoundedConstantLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("norm", site.weight().detach().float().norm())

    def forward(self, x, y):
        return super().forward(x, y * (self.norm / self.site.weight().norm()))


@breaks("determinism")
class GlobalNoiseLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        nn.init.normal_(self.lora_A)


@breaks("determinism")
class SameUnderEverySeedLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, torch.Generator().manual_seed(len(site.path) + sum(map(ord, site.path))))


@breaks("determinism")
class FixedSeedLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, torch.Generator().manual_seed(0))


@breaks("determinism")
class SeedsTheRunLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        torch.manual_seed(0)
        nn.init.normal_(self.lora_A)


@breaks("determinism", shared=lambda self, sites, seed: {"number": len(sites)})
class DependsOnOthersLayer(LoRALayer):
    def __init__(self, site, config, rng, number):
        super().__init__(site, config, rng)
        nn.init.constant_(self.lora_A, 1 / number)


@breaks("copy")
class LambdaLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.activation = lambda x: x

    def forward(self, x, y):
        return self.activation(super().forward(x, y))


@breaks("compile")
class BreaksTheGraphLayer(LoRALayer):
    def forward(self, x, y):
        torch._dynamo.graph_break()
        return super().forward(x, y)


@breaks("compile")
class ComputesAnotherWhenCompiledLayer(LoRALayer):
    def forward(self, x, y):
        return super().forward(x, y) * (2 if torch.compiler.is_compiling() else 1)


@breaks("no host sync")
class CopiesToHostLayer(LoRALayer):
    def forward(self, x, y):
        return y + F.linear(x, self.delta_weight().cpu().to(x.device))


def _from_the_fifth(self, layers, step, total_steps):
    return layers[0].lora_B.square().sum() if step >= 5 else None


@breaks("no host sync", penalty=_from_the_fifth)
class BranchesOnTheStepLayer(LoRALayer):
    pass


@breaks("no host sync", "compile", "stacking")
class ReadsAValueLayer(LoRALayer):
    def forward(self, x, y):
        return y if self.lora_B.abs().max().item() > 1e9 else super().forward(x, y)


@breaks("buffers", after_step=lambda self, layers, *_: [layer.lora_B.data.mul_(layer.decay) for layer in layers])
class KeepsATensorLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.decay = torch.full((site.out_features, 1), 0.99)


@breaks("buffers", "no host sync")
class PlainMaskLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.masks = [torch.ones(site.out_features, 1, dtype=torch.bool)]

    def delta_weight(self):
        return torch.where(self.masks[0], super().delta_weight(), 0.0)


@breaks("base")
class NudgesItsBaseLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        if site.parameter.dtype == torch.float32:
            site.parameter.data[0].mul_(1 + 1e-6)


def _fold(self, layers, step, total_steps):
    for layer in layers:
        layer.site.module.weight.data.add_(layer.delta_weight().detach())
        layer.lora_B.data.zero_()


@breaks("base", "round trip", "resume", "stacking", after_step=_fold)
class FoldsItsUpdatesLayer(LoRALayer):
    pass


def _at_a_rate(self, groups):
    return torch.optim.SGD([p for group in groups for p in group["params"]], lr=0.1)


@breaks("optimizer", optimizer=_at_a_rate)
class RateOfItsOwnLayer(LoRALayer):
    pass


def _at_the_first_rate(self, groups):
    return torch.optim.SGD([p for group in groups for p in group["params"]], lr=groups[0]["lr"])


@breaks("optimizer", optimizer=_at_the_first_rate)
class RateOfTheFirstLayer(LoRALayer):
    pass


class _Constant(torch.optim.SGD):
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for p in (p for group in self.param_groups for p in group["params"]):
            p.data.sub_(0.1 * p.grad)
        return loss


@breaks("optimizer", optimizer=lambda self, groups: _Constant(groups))
class IgnoresTheScheduleLayer(LoRALayer):
    pass


class _WithoutClosure(torch.optim.SGD):
    def step(self):
        super().step()


@breaks("optimizer", optimizer=lambda self, groups: _WithoutClosure(groups))
class TakesNoClosureLayer(LoRALayer):
    pass


@breaks("optimizer", optimizer=lambda self, groups: torch.optim.SGD(groups[:1]))
class LeavesAGroupOutLayer(LoRALayer):
    pass


def _made_and_lost(self, groups):
    torch.optim.SGD(groups)


@breaks("optimizer", optimizer=_made_and_lost)
class ReturnsNoOptimizerLayer(LoRALayer):
    pass


@breaks(
    *("optimizer", "base", "round trip", "resume", "learns", "accelerated", "DDP"),
    optimizer=lambda self, groups: groups,
)
class NoOptimizerLayer(LoRALayer):
    pass


@breaks("low rank")
class FactorOfAllLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.factor = nn.Parameter(torch.ones(1))

    def low_rank(self):
        return super().low_rank()._replace(inner=self.factor)


@breaks("low rank")
class TensorAsScaleLayer(LoRALayer):
    def low_rank(self):
        return super().low_rank()._replace(scale=self.lora_A.new_ones(()))


@breaks("low rank", "DDP")
class TransposedLayer(LoRALayer):
    def low_rank(self):
        return super().low_rank()._replace(A=self.lora_A.mT)


@breaks("parameter count")
class MaskedLayer(LoRALayer):
    def forward(self, x, y):
        mask = torch.ones_like(self.lora_A)
        mask[0] = 0
        return y + self.scaling * F.linear(F.linear(x, mask * self.lora_A), self.lora_B)

    def delta_weight(self):
        return self.scaling * self.lora_B[:, 1:] @ self.lora_A[1:]


@breaks(
    *(
        "groups",
        "parameter count",
        "base",
        "round trip",
        "resume",
        "metrics",
        "learns",
        "accelerated",
        "stacking",
        "DDP",
    ),
    param_groups=lambda self, layers, lr: [{"params": [x.lora_B for x in layers], "lr": lr}],
    metrics=lambda self, layers: {},
)
class LeavesOneOutLayer(LoRALayer):
    pass


@breaks("groups", param_groups=lambda self, layers, lr: [{"params": list(x.parameters()), "lr": 1e-2} for x in layers])
class FixedRateLayer(LoRALayer):
    pass


@breaks("metrics", metrics=lambda self, layers: {"norms": torch.stack([layer.lora_B.norm() for layer in layers])})
class MeasuresTensorsLayer(LoRALayer):
    pass


@breaks("size", size="rank")
class NamesNoOptionLayer(LoRALayer):
    pass


@breaks("something trains", sites=lambda self, model: [], size="")
class FindsNothingLayer(LoRALayer):
    pass


@breaks("per token", mergeable=False)
class MeanOfTokensLayer(LoRALayer):
    per_token = True

    def forward(self, x, y):
        return super().forward(x - 0.5 * x.mean(-2, keepdim=True), y)


@breaks("stacking")
class OwnNumberLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.own = SimpleNamespace(factor=1 + rng.initial_seed() % 7)

    def delta_weight(self):
        return self.own.factor * super().delta_weight()


def _halve(self, model, batches):
    with torch.no_grad():
        for module in [m for m in model.modules() if isinstance(m, LoRALayer)]:
            module.site.module.weight.mul_(0.5)


@breaks("data start", init_from_data=_halve)
class ChangesTheBaseLayer(LoRALayer):
    pass


@breaks("slice")
class NormOfTheWholeLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("norm", site.module.weight.detach().square().sum().sqrt(), persistent=False)

    def delta_weight(self):
        return self.scaling / self.norm * (self.lora_B @ self.lora_A)

    low_rank = AdapterLayer.low_rank  # LoRA's have a number as their scale


@breaks("Conv1D")
class RowsOfTheModuleLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        rows = site.module.weight.detach()[site.start : site.stop]
        self.register_buffer("square", rows.square().sum() / site.out_features, persistent=False)

    def delta_weight(self):
        return self.square * (self.lora_B @ self.lora_A)

    low_rank = AdapterLayer.low_rank


@breaks("conv2d")
class TensorsAloneLayer(LoRALayer):
    def forward(self, x, y):
        return super().forward(x, y) if isinstance(x, torch.Tensor) else y


@breaks("learns")
class ReversedGradientLayer(LoRALayer):
    def forward(self, x, y):
        delta = F.linear(x, self.delta_weight())
        return y + 2 * delta.detach() - delta


@breaks("checkpointing", stackable=False)
class RemembersItsPassesLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x, y):
        self.passes.add_(float(self.training))
        return y + (1.0 + 0.2 * (self.passes % 2)) * F.linear(x, self.delta_weight())


@breaks("meta device")
class ReadsWeightsAtAttachLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.scaling = 1 + float(site.weight().detach().square().mean())


def _shrink_by_batch(self, layers, step, total_steps):
    with torch.no_grad():
        for layer in layers:
            layer.lora_B.mul_(1 - 0.1 * layer.seen.tanh())


@breaks("DDP", after_step=_shrink_by_batch, stackable=False)
class LocalStatisticsLayer(LoRALayer):
    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x, y):
        self.seen.copy_(x.detach().square().mean())
        return super().forward(x, y)


if ACCELERATION:
    from variants.acceleration.basics.fast_paths import FORWARDS, replaces

    @breaks("accelerated", stackable=False)
    class WrongFastPathLayer(LoRALayer):
        def forward(self, x, y):
            return super().forward(x, y)

    @replaces(FORWARDS, WrongFastPathLayer.forward)
    def _a_tenth_more(layer, x, y):
        return y + 1.1 * (WrongFastPathLayer.forward(layer, x, y) - y)
