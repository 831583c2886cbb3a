"""LoRA variants as plug-ins: one file per method, one interface for all of them.

    from variants import attach, LoRA
    adapted = attach(model, LoRA(r=8, alpha=16), seed=0)

Usable alone: importing it needs torch, and neither Lightning nor transformers.
"""

from __future__ import annotations

import importlib
from typing import Any

from variants.errors import VariantError
from variants.registry import names, register, resolve
from variants.variant import BaseVariant, Variant

_lazy = {
    "AdapterLayer": "layer",
    "Adapted": "adapters.adapted_model",
    "attach": "adapters.adapted_model",
    "load": "formats.native",
    "LoRA": "methods.lora",
    "AdaLoRA": "methods.adalora",
    "DoRA": "methods.dora",
    "VeRA": "methods.vera",
    "Full": "methods.full",
    "Head": "methods.head",
    "BitFit": "methods.bitfit",
    "FTTop2": "methods.ft_top2",
    "AdapterH": "methods.adapter_h",
    "AdapterL": "methods.adapter_l",
    "AdapterP": "methods.adapter_p",
    "AdapterD": "methods.adapter_d",
    "PrefixEmbed": "methods.prefix_embed",
    "PrefixLayer": "methods.prefix_layer",
    "PrefixTuning": "methods.prefix_tuning",
}
__all__ = ["BaseVariant", "Variant", "VariantError", "names", "register", "resolve", *_lazy]


def __getattr__(name: str) -> Any:
    """Load what needs torch when it is first asked for: ``--help`` does not."""
    if name in _lazy:
        return getattr(importlib.import_module(f"variants.{_lazy[name]}"), name)
    raise AttributeError(f"module 'variants' has no attribute {name!r}")
