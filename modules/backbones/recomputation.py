"""Less memory for more time: blocks computed again in the backward pass, or activations kept in the host's memory.

Neither changes what is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from variants.errors import UserError

LARGE = 3_000_000_000
"""Parameters of a model from which on its blocks are computed again on a GPU, unless that is switched off."""


def checkpoint_blocks(model: nn.Module, wanted: str, on_gpu: bool) -> bool:
    """Have the blocks of a transformers model computed again in the backward pass, if so wanted; whether they are.

    Args:
        wanted: "on", "off", or "auto": on a GPU, of models above `LARGE`.

    Raises:
        UserError: it is asked for, and the model cannot.
    """
    large = on_gpu and sum(p.numel() for p in model.parameters()) > LARGE
    if wanted == "off" or (wanted == "auto" and not large):
        return False
    if not getattr(model, "supports_gradient_checkpointing", False):
        if wanted == "on":
            raise UserError(f"--gradient_checkpointing on: {type(model).__name__} does not support it")
        return False
    # the state of random numbers cannot be read while a CUDA graph is captured, and where nothing is dropped need not
    drops = any(isinstance(module, nn.Dropout) and module.p for module in model.modules()) or _attention_drops(model)
    options = {"use_reentrant": False, "preserve_rng_state": drops}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.20 and newer
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    return True


def _attention_drops(model: nn.Module) -> bool:
    from variants.sites.architectures import architecture_of

    return any(getattr(model.config, name, 0.0) for name in architecture_of(model).dropout)


@contextlib.contextmanager
def offloaded(on: bool) -> Iterator[None]:
    """``with`` this, what a forward pass keeps for the backward pass lies in the host's memory."""
    if not on:
        yield
        return
    with torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()):
        yield
