"""What a variant must hold to on maps that are kept in other ways: slices, transposed maps and convolutions."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.contract.base import property_of, require
from variants.contract.images import TinyImages
from variants.contract.models import (
    CONV1D,
    FUSED,
    SPLIT,
    NotApplicable,
    Subject,
    distance,
)
from variants.layer import AdapterLayer


@property_of("slice")
@torch.no_grad()
def slices(subject: Subject) -> None:
    """On slices of a fused map it computes what it computes on separate maps, and leaves the rest alone."""
    if any(hasattr(layer, "pre") for layer in subject.attached().layers):
        raise NotApplicable("it changes its input, which needs whole maps")
    split = subject.trained(subject.model(SPLIT), **subject.retargeted("c_attn.q,c_attn.v"))
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


@property_of("conv2d")
def convolutions(subject: Subject) -> None:
    """On convolutions it computes what it computes on nn.Linear over their patches, gradients and merging included."""
    where, x = subject.retargeted("conv*"), TinyImages.inputs()
    on_patches = subject.trained(TinyImages(subject.width, formed=True).eval(), **where)
    convolved = subject.trained(TinyImages(subject.width).eval(), **where)
    convolved.load_state_dict(on_patches.state_dict())
    expected, gradients = _pass(on_patches, x)
    _compare("", _pass(convolved, x), expected, gradients)
    if find_spec("variants.acceleration") is not None:  # the folder may be deleted
        from variants.acceleration import accelerated
        from variants.acceleration.basics.policy import for_graph

        with for_graph(), accelerated(convolved):
            _compare(", accelerated,", _pass(convolved, x), expected, gradients)
    if subject.variant.mergeable:
        _merged(convolved, x)


def _pass(adapted: AdaptedModel, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradient of each trained tensor."""
    adapted.model.zero_grad()
    output = adapted.model(x)
    output.square().sum().backward()
    return output.detach(), {n: t.grad.clone() for n, t in adapted.trained().items() if t.grad is not None}


def _compare(how: str, found: tuple[Tensor, dict[str, Tensor]], expected: Tensor, gradients: dict[str, Tensor]) -> None:
    off = distance(found[0], expected)
    allowed = 1e-5 * (1 + expected.abs().max().item())
    require(off < allowed, f"on convolutions{how} the output differs by {off:.1e} from nn.Linear over their patches")
    require(found[1].keys() == gradients.keys(), f"on convolutions{how} other tensors have a gradient")
    for name, gradient in gradients.items():
        off = distance(found[1][name], gradient) / (1 + gradient.abs().max().item())
        require(off < 1e-4, f"on convolutions{how} the gradient of {name} is off by {off:.1e}")


@torch.no_grad()
def _merged(adapted: AdaptedModel, x: Tensor) -> None:
    model, before = adapted.model, adapted.model(x)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted.merge()
    off = distance(model(x), before)
    require(off < 1e-4 * (1 + before.abs().max().item()), f"merged into convolutions, the model is off by {off:.1e}")
    adapted.unmerge()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, base[name])]
    require(not changed, f"unmerging does not restore {changed[0] if changed else ''} of a convolution")
