"""Frozen weights in low precision under what trains in fp32: half the memory, and no cast of a weight at each use."""

from __future__ import annotations

import torch
from torch import nn

from variants.sites.architectures import head_parameters


def lower_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's backbone to ``dtype`` before adapters are attached; its task head, which trains, stays in fp32.

    Modules of the head take their inputs in fp32 and so give fp32; adapter layers look after themselves.
    """
    head = set(head_parameters(model))
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if any(f"{name}.{key}" in head for key in own):
            module.register_forward_pre_hook(_in_fp32)
            continue
        for parameter in own.values():  # no buffers: rotary frequencies need their digits
            parameter.data = parameter.data.to(dtype)


def _in_fp32(module: nn.Module, args: tuple) -> tuple:
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args)
