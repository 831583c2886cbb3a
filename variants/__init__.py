"""LoRA variants as plug-ins: one file per method, one interface for all of them.

    from variants import attach, LoRA
    adapted = attach(model, LoRA(r=8, alpha=16), seed=0)

Usable alone: importing it needs torch, and neither Lightning nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

from variants.registry import names, register, resolve
from variants.variant import BaseVariant, Variant, VariantError

_lazy = {
    "AdapterLayer": "layer",
    "Adapted": "adapted",
    "attach": "adapted",
    "load": "files",
    "LoRA": "lora",
    "AdaLoRA": "adalora",
    "DoRA": "dora",
    "VeRA": "vera",
    "Full": "full",
    "Head": "head",
    "BitFit": "bitfit",
    "FTTop2": "ft_top2",
    "AdapterH": "adapter_h",
    "AdapterL": "adapter_l",
    "AdapterP": "adapter_p",
    "AdapterD": "adapter_d",
    "PrefixEmbed": "prefix_embed",
    "PrefixLayer": "prefix_layer",
    "PrefixTuning": "prefix_tuning",
}
__all__ = ["BaseVariant", "Variant", "VariantError", "names", "register", "resolve", *_lazy]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first asked for: ``--help`` does not."""
    if name in _lazy:
        return getattr(importlib.import_module(f"variants.{_lazy[name]}"), name)
    raise AttributeError(f"module 'variants' has no attribute {name!r}")
