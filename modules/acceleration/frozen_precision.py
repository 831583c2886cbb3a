"""Frozen weights in low precision under fp32 trained ones: half the memory, and no cast of a weight at each use."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from variants.sites.architectures import head_parameters
from variants.sites.kinds.few_bits import is_packed


class LoweredBackbone:
    """A model whose backbone has been cast by :func:`lower_frozen`."""

    def __init__(self, former: dict[nn.Parameter, torch.dtype], hooks: list[RemovableHandle]) -> None:
        self._former, self._hooks = former, hooks

    def release(self) -> None:
        """Give the weights their former dtype, with the digits that are left, and take the hooks off the head."""
        for parameter, dtype in self._former.items():
            parameter.data = parameter.data.to(dtype)
        for hook in self._hooks:
            hook.remove()
        self._former.clear()
        self._hooks.clear()


def lower_frozen(model: nn.Module, dtype: torch.dtype) -> LoweredBackbone:
    """Cast a model's backbone to ``dtype`` before adapters are attached; its task head, which trains, stays in fp32.

    Modules of the head take their inputs in fp32 and so give fp32; adapter layers look after themselves.
    """
    head = set(head_parameters(model))
    former: dict[nn.Parameter, torch.dtype] = {}
    hooks = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if any(f"{name}.{key}" in head for key in own):
            hooks.append(module.register_forward_pre_hook(_in_fp32))
            continue
        for parameter in own.values():  # no buffers: rotary frequencies need their digits
            if is_packed(parameter):  # its bytes are codes, whatever they are said to be
                continue
            former.setdefault(parameter, parameter.dtype)
            parameter.data = parameter.data.to(dtype)
    return LoweredBackbone(former, hooks)


def _in_fp32(module: nn.Module, args: tuple) -> tuple:
    return tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args)
