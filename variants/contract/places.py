"""What a variant must hold to on maps that are kept in other ways: slices, transposed maps and convolutions."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.contract.base import property_of, require
from variants.contract.models import (
    CONV1D,
    FUSED,
    SPLIT,
    NotApplicable,
    Subject,
    adapter_parameters,
    distance,
)
from variants.errors import VariantError
from variants.layer import AdapterLayer
from variants.sites.site import Site


@property_of("slice")
@torch.no_grad()
def slices(subject: Subject) -> None:
    """On slices of a fused map it computes what it computes on separate maps, and leaves the rest alone."""
    if any(hasattr(layer, "pre") for layer in subject.attached().layers):
        raise NotApplicable("it changes its input, which needs whole maps")
    where = subject.retargeted("c_attn.q,c_attn.v")
    split = _with_roles(subject, where).trained(subject.model(SPLIT))
    fused = subject.trained(subject.model(FUSED), **subject.retargeted("q,v"))
    x, width = subject.inputs(), subject.width
    plain = subject.model(FUSED).base_model["layers"][0].attn.c_attn(x)
    mapped = fused.model.base_model["layers"][0].attn.c_attn(x)
    require(
        torch.equal(mapped[..., width : 2 * width], plain[..., width : 2 * width]),
        "the slices q and v change k as well",
    )
    fused.load_state_dict(split.state_dict())
    off = distance(fused.model(x), split.model(x))
    require(off < 1e-4, f"on slices of a fused map the output differs by {off:.1e} from separate maps")


def _with_roles(subject: Subject, where: dict[str, str]) -> Subject:
    """A variant on separate maps that are called as slices are: the family, which fuses them, gives those no role."""
    variant = dataclasses.replace(subject.variant, **where)
    find = variant.sites

    def sites(model: nn.Module) -> list[Site]:
        found = find(model)
        for site in found:
            site.role = site.path.rpartition(".")[2]
        return found

    object.__setattr__(variant, "sites", sites)
    return dataclasses.replace(subject, variant=variant)


@property_of("Conv1D")
@torch.no_grad()
def transposed(subject: Subject) -> None:
    """On GPT-2's transposed maps it computes what it computes on nn.Linear."""
    linear = subject.trained(subject.model(FUSED), **subject.retargeted("all-linear"))
    conv1d = subject.trained(subject.model(CONV1D), **subject.retargeted("all-linear"))
    for layer in conv1d.layers:
        if type(layer).forward is AdapterLayer.forward:
            shapes = tuple(layer.delta_weight().shape), (layer.site.out_features, layer.site.in_features)
            require(shapes[0] == shapes[1], f"delta_weight() is {shapes[0]}, and the weight (out, in) is {shapes[1]}")
    conv1d.load_state_dict(linear.state_dict())
    x = subject.inputs()
    off = distance(conv1d.model(x), linear.model(x))
    require(off < 1e-4, f"on a transposed map the output differs by {off:.1e} from nn.Linear")


# ---- convolutions ---------------------------------------------------------------------------------------------------

SHAPES = ({"padding": 1}, {"padding": 2, "dilation": 2, "stride": 2}, {"kernel_size": 1})
"""Of each convolution; kernels are 3 x 3 but for the last."""


class TinyImages(nn.Module):
    """Convolutions, one after the other, and a head on the mean of their last image.

    Args:
        width: channels.
        formed: each is a map ``nn.Linear`` of the patches that ``torch.nn.functional.unfold`` forms, with the same
            weights under the same name.
    """

    CHANNELS = 8

    def __init__(self, width: int = 16, formed: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="")
        self.convs, self.formed = nn.ModuleDict(), formed
        rng = torch.Generator().manual_seed(0)
        for number, options in enumerate(SHAPES):
            into = self.CHANNELS if number == 0 else width
            conv = nn.Conv2d(into, width, **{"kernel_size": 3} | options)
            weight = torch.randn(conv.weight.shape, generator=rng) / conv.weight[0].numel() ** 0.5
            bias = 0.3 * torch.randn(width, generator=rng)
            module = nn.Linear(weight[0].numel(), width) if formed else conv
            module.weight = nn.Parameter(weight.flatten(1) if formed else weight)
            module.bias = nn.Parameter(bias)
            self.convs[f"conv{number}"] = module

    @classmethod
    def inputs(cls) -> Tensor:
        """Images (batch, channels, 7, 6), the same at each call."""
        return torch.randn(4, cls.CHANNELS, 7, 6, generator=torch.Generator().manual_seed(1))

    def forward(self, x: Tensor) -> Tensor:
        """Images (batch, channels, height, width) -> (batch, width)."""
        for map_, options in zip(self.convs.values(), SHAPES, strict=True):
            x = torch.tanh(self._formed(map_, x, {"kernel_size": 3} | options) if self.formed else map_(x))
        return x.mean(dim=(2, 3))

    @staticmethod
    def _formed(linear: nn.Linear, x: Tensor, options: dict[str, int]) -> Tensor:
        y = linear(F.unfold(x, **options).mT).mT
        reach = options.get("dilation", 1) * (options["kernel_size"] - 1)
        height, width = (
            (size + 2 * options.get("padding", 0) - reach - 1) // options.get("stride", 1) + 1 for size in x.shape[2:]
        )
        return y.unflatten(2, (height, width))


@property_of("conv2d")
def convolutions(subject: Subject) -> None:
    """On convolutions it computes what it computes on nn.Linear over their patches, gradients and merging included."""
    where, x = subject.retargeted("conv*"), TinyImages.inputs()
    on_patches = subject.trained(TinyImages(subject.width, formed=True).eval(), **where)
    convolved = subject.trained(TinyImages(subject.width).eval(), **where)
    if not adapter_parameters(on_patches):
        raise NotApplicable("it finds nothing to train in convolutions")
    convolved.load_state_dict(on_patches.state_dict())
    _compare("", convolved, on_patches, x)
    if find_spec("variants.acceleration") is not None:  # the folder may be deleted
        from variants.acceleration import accelerated
        from variants.acceleration.basics.policy import for_graph

        with for_graph(), accelerated(on_patches), accelerated(convolved):
            _compare(", accelerated,", convolved, on_patches, x)
    if subject.variant.mergeable:
        _compare_merged(convolved, on_patches, x)


def _compare(how: str, convolved: AdaptedModel, on_patches: AdaptedModel, x: Tensor) -> None:
    (output, gradients), (expected, known) = _pass(convolved, x), _pass(on_patches, x)
    off, allowed = distance(output, expected), 1e-5 * (1 + expected.abs().max().item())
    require(off < allowed, f"on convolutions{how} the output differs by {off:.1e} from nn.Linear over their patches")
    require(gradients.keys() == known.keys(), f"on convolutions{how} other tensors have a gradient")
    for name, gradient in known.items():
        off = distance(gradients[name], gradient) / (1 + gradient.abs().max().item())
        require(off < 1e-4, f"on convolutions{how} the gradient of {name} is off by {off:.1e}")


def _pass(adapted: AdaptedModel, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradient of each trained tensor."""
    adapted.model.zero_grad()
    output = adapted.model(x)
    if output.requires_grad:
        output.square().sum().backward()
    return output.detach(), {n: t.grad.clone() for n, t in adapted.trained().items() if t.grad is not None}


@torch.no_grad()
def _compare_merged(convolved: AdaptedModel, on_patches: AdaptedModel, x: Tensor) -> None:
    try:
        on_patches.merge()
    except VariantError:  # which is no matter of convolutions
        return
    model, before = convolved.model, convolved.model(x)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convolved.merge()
    for name, map_ in model.convs.items():
        off = distance(map_.weight.flatten(1), on_patches.model.convs[name].weight)
        require(off < 1e-4, f"merged into convolutions, {name} differs by {off:.1e} from nn.Linear over its patches")
    off = distance(model(x), before)
    require(off < 1e-4 * (1 + before.abs().max().item()), f"merged into convolutions, the model is off by {off:.1e}")
    convolved.unmerge()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, base[name])]
    require(not changed, f"unmerging does not restore {changed[0] if changed else ''} of a convolution")
