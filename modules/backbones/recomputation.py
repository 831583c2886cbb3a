"""Less memory for more time: blocks computed again in the backward pass, or activations kept in the host's memory.

Neither changes what is computed.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator

import torch
from torch import nn

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.stack import Stack
from variants.errors import UserError
from variants.sites.kinds.few_bits import numel

LARGE = 3_000_000_000
"""Parameters of a model from which on its blocks are computed again on a GPU, unless that is switched off."""


def checkpoint_blocks(handle: AdaptedModel | Stack, wanted: str, on_gpu: bool) -> bool:
    """Have the blocks of a transformers model computed again in the backward pass, if so wanted; whether they are.

    Args:
        handle: with its adapters attached.
        wanted: "on", "off", or "auto": on a GPU, of models above `LARGE`.

    Raises:
        UserError: it is asked for, and the model cannot.
    """
    model = handle.model
    large = on_gpu and sum(map(numel, model.parameters())) > LARGE
    if wanted == "off" or (wanted == "auto" and not large):
        return False
    if not getattr(model, "supports_gradient_checkpointing", False):
        if wanted == "on":
            raise UserError(f"--gradient_checkpointing on: {type(model).__name__} does not support it; leave it out")
        return False
    # the state of random numbers cannot be read while a CUDA graph is captured, and where nothing is drawn need not
    options = {"use_reentrant": False, "preserve_rng_state": draws(handle)}
    if hasattr(model, "activation_checkpointing_enable"):  # transformers 5.20 and newer
        model.activation_checkpointing_enable(options)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    return True


def draws(handle: AdaptedModel | Stack) -> bool:
    """Whether blocks may draw random numbers: they do not where the model's configuration and all dropout modules drop
    nothing, and the method is one of the project's, which draw for dropout alone."""
    parts = [handle.model.config, *vars(handle.model.config).values()]
    options = itertools.chain(*(vars(part).items() for part in parts if hasattr(part, "model_type")))
    modules = itertools.chain(handle.model.modules(), *(layer.modules() for layer in handle.layers))
    return (
        any("drop" in name and not _HEADS.search(name) and _is_share(value) for name, value in options)
        or any(module.p for module in modules if isinstance(module, nn.modules.dropout._DropoutNd))
        or not type(handle.variant).__module__.startswith("variants.methods.")
    )


def _is_share(value: object) -> bool:
    return isinstance(value, float) and 0 < value <= 1


_HEADS = re.compile("classif|summary")
"""In the names of options for dropout behind the last block."""


@contextlib.contextmanager
def offloaded(on: bool) -> Iterator[None]:
    """``with`` this, what a forward pass keeps for the backward pass lies in the host's memory."""
    if not on:
        yield
        return
    with torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available()):
        yield
