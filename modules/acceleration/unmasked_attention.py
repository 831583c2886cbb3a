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
    configs = configs_of(model)
    sdpa = all(config._attn_implementation == "sdpa" for config in configs)
    if not sdpa or windows_below(configs, width):
        return []
    AttentionInterface.register(NAME, _attend)
    return [(config, "_attn_implementation_internal", NAME) for config in configs]


def configs_of(model: nn.Module) -> list[PreTrainedConfig]:
    """Every configuration that a module of the model looks things up in."""
    found = (getattr(module, "config", None) for module in model.modules())
    return list({id(config): config for config in found if isinstance(config, PreTrainedConfig)}.values())


def windows_below(configs: list[PreTrainedConfig], width: int, exact: bool = False) -> int | None:
    """The window or chunk of some attention that is shorter than ``width``.

    Args:
        exact: sliding windows do not count, as each attention says which it has.
    """
    names = ("attention_chunk_size",) if exact else ("attention_chunk_size", "sliding_window")
    sizes = (getattr(config, name, None) for config in configs for name in names)
    return next((size for size in sizes if size and size < width), None)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    return sdpa_attention_forward(module, query, key, value, None, **options)
