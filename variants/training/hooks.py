"""What the hooks of a training step are given, and what they leave behind."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer


def as_tensor(step: int | Tensor, device: torch.device) -> Tensor:
    """A step as a whole number () on a device, made without a wait for it; a tensor is taken as it is."""
    return step if isinstance(step, Tensor) else torch.full((), step, dtype=torch.int64, device=device)


def tell_mask(layers: Iterable[AdapterLayer], mask: Tensor | None) -> None:
    """Give layers that read it the mask of the batch that comes next, (rows, length); None: nothing is known of one."""
    for layer in layers:
        if layer.reads_mask:
            layer.attention_mask = None if mask is None else mask.bool()


def end_passes(layers: Iterable[AdapterLayer]) -> None:
    """Cut what passes have left in layers for ``penalty`` off their graphs, which it would keep alive: a later pass
    would hand its gradients over where the first of them did, on a stream that no CUDA graph can be captured with."""
    for module in (module for layer in layers for module in layer.modules()):
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(module)[name] = value.detach()


Gradients = dict[nn.Parameter, tuple[Tensor, Tensor]]
"""A parameter's gradient, and the memory that it had."""


def gradients(parameters: Iterable[nn.Parameter]) -> Gradients:
    """Gradients before a hook sees them, for :func:`put_back`; parameters without one are left out."""
    return {p: (p.grad, p.grad.detach()) for p in parameters if p.grad is not None}


@torch.no_grad()
def put_back(given: Gradients) -> None:
    """Copy what a hook has put in the place of gradients into their memory, and zeros where it has taken one away: a
    CUDA graph reads them there, and seeds that are trained at once have their shares there."""
    for parameter, (own, memory) in given.items():
        new = parameter.grad
        if new is None or new.data_ptr() != memory.data_ptr():
            memory.copy_(torch.zeros_like(memory) if new is None else new)
            own.data = memory
            parameter.grad = own
