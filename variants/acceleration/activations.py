"""GELU's tanh form as the one operation that PyTorch has for it, where a model makes it of eight (as ``gelu_new``).

Each of the eight reads and writes the widest tensor of a block, and the backward pass keeps several of them; the one
keeps its input.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from variants.acceleration.basics.found import found_of
from variants.acceleration.basics.overrides import Override
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack

TANH_GELU = partial(F.gelu, approximate="tanh")
OWN_CODE = "transformers.activations"
"""Where transformers' activations are written; PyTorch's are one operation already."""


def activations(handle: AdaptedModel | Stack) -> list[Override]:
    """Overrides of activations, found once for each handle; nobody else's replacements are replaced."""
    known = found_of(handle)
    if "activations" not in known:
        with torch.inference_mode(False), torch.no_grad():
            known["activations"] = list(activations_of(handle.model))
    return [one for one in known["activations"] if "forward" not in vars(one[0])]


def activations_of(model: nn.Module) -> Iterator[Override]:
    """Overrides of a model's activations that :data:`TANH_GELU` computes too."""
    fits: dict[type, bool] = {}
    for module in model.modules():
        kind = type(module)
        if kind.__module__ != OWN_CODE or any(True for _ in module.parameters()):
            continue
        if kind not in fits:  # no list says which: each is tried once
            x = torch.linspace(-9, 9, 999)
            fits[kind] = torch.allclose(kind.forward(module, x), TANH_GELU(x), rtol=1e-5, atol=1e-6)
        if fits[kind]:
            yield module, "forward", TANH_GELU
