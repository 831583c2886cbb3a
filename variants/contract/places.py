"""What a variant must hold to on maps that are kept in other ways: slices and transposed maps."""

from __future__ import annotations

import torch

from variants.contract.base import property_of, require
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
