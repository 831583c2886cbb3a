"""The gradients of all that trains, in one tensor: cleared in one operation, averaged over processes in one."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from variants.acceleration.basics.torch_private import foreach_add_

ALIGNMENT = 32
"""Elements of which each gradient's place is a multiple: kernels read aligned tensors four numbers at a time."""


class FlatGradients:
    """Gradients that stay where they are, as views of one flat tensor for each dtype (of adapters: one, in fp32).

    An adapter has one to three megabytes of them. One all-reduce of so much takes as long as one of a few bytes, so
    there is nothing to gain by beginning while the backward pass still runs, as DistributedDataParallel does.

    Args:
        parameters: all that trains, on one device.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(dict.fromkeys(parameters))
        self._flat: dict[torch.dtype, Tensor] = {}
        self.each: list[Tensor] = []
        """A view for each parameter, of its shape."""
        places, sizes = [], dict.fromkeys((p.dtype for p in self.parameters), 0)
        for parameter in self.parameters:
            places.append(sizes[parameter.dtype])
            sizes[parameter.dtype] += ALIGNMENT * math.ceil(parameter.numel() / ALIGNMENT)
        for dtype, size in sizes.items():
            self._flat[dtype] = torch.zeros(size, dtype=dtype, device=self.parameters[0].device)
        for parameter, place in zip(self.parameters, places, strict=True):
            view = self._flat[parameter.dtype][place : place + parameter.numel()]
            self.each.append(view.view(parameter.shape))

    def bind(self) -> None:
        """Make the views the parameters' gradients: somebody may have set those to None, as Lightning does before it
        evaluates."""
        for parameter, view in zip(self.parameters, self.each, strict=True):
            parameter.grad = view

    def zero(self) -> None:
        """Set all gradients to zero, in place."""
        for flat in self._flat.values():
            flat.zero_()

    def add(self, found: Iterable[Tensor | None]) -> list[nn.Parameter]:
        """Add a gradient for each parameter; returns the parameters that have none."""
        pairs = list(zip(self.parameters, self.each, found, strict=True))
        used = [(view, gradient) for _, view, gradient in pairs if gradient is not None]
        foreach_add_([view for view, _ in used], [gradient for _, gradient in used])
        return [parameter for parameter, _, gradient in pairs if gradient is None]

    def average(self) -> None:
        """Replace the gradients by their mean over all processes; without several processes nothing happens."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        for flat in self._flat.values():
            dist.all_reduce(flat)
            flat.div_(dist.get_world_size())
