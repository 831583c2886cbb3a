"""Causal attention without a mask, for decoders whose padding comes after the tokens.

A token sees what comes before it alone, so that padding behind a row needs no mask. transformers makes one all the same
while a CUDA graph is captured, and attention with a mask in hand takes twice the time.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from variants.acceleration.basics.overrides import Override

NAME = "unmasked_sdpa"
"""An attention that transformers has no masks for, and so makes none."""


def unmasked(model: nn.Module, width: int) -> list[Override]:
    """Overrides: a decoder on PyTorch's attention that is called without a mask makes none.

    Args:
        width: tokens of the longest row: attention to fewer tokens than that needs its mask.
    """
    configs = {
        id(m.config): m.config for m in model.modules() if isinstance(getattr(m, "config", None), PreTrainedConfig)
    }
    if not all(_whole(config, width) for config in configs.values()):
        return []
    AttentionInterface.register(NAME, _attend)
    return [(config, "_attn_implementation_internal", NAME) for config in configs.values()]


def _whole(config: PreTrainedConfig, width: int) -> bool:
    windows = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return config._attn_implementation == "sdpa" and not any(window and window < width for window in windows)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    return sdpa_attention_forward(module, query, key, value, None, **options)
