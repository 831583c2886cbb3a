"""Decoders with Liger's kernels, as its own documentation has them put in: for the limit, PEFT and full fine-tuning.

Ours needs none of this: an accelerated pass takes the kernels by itself (`variants.acceleration.kernels`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from torch import Tensor, nn

from modules.efficiency.steps.backbones import Batch

_ROTARY: list[Callable] = []
"""The function of LLaMA's file that Liger replaces for the whole process, as it was."""


def has_kernels(model: nn.Module) -> bool:
    """Whether Liger has kernels for a model, and is installed."""
    on_gpu = next(model.parameters()).is_cuda
    return (
        on_gpu
        and getattr(model.config, "model_type", "") == "llama"
        and importlib.util.find_spec("liger_kernel") is not None
    )


def patch(model: nn.Module, losses: bool) -> None:
    """Put Liger's RMSNorm, rotary positions and SwiGLU in, with `losses` its linear cross-entropy too."""
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from transformers.models.llama import modeling_llama

    _ROTARY[:] = _ROTARY or [modeling_llama.apply_rotary_pos_emb]
    apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=losses, model=model)


def restore() -> None:
    """Take out what :func:`patch` has changed for all models."""
    if _ROTARY:
        from transformers.models.llama import modeling_llama

        modeling_llama.apply_rotary_pos_emb = _ROTARY.pop()


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss as the model itself computes it: the mean over all tokens but the rows' first."""
    return model(input_ids=batch["input_ids"], labels=batch["input_ids"]).loss.float()
