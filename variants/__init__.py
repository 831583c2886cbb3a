"""LoRA variants as plug-ins: one file per method, one interface for all of them.

    from variants import attach, LoRA
    adapted = attach(model, LoRA(r=8, alpha=16), seed=0)

Usable alone: importing it needs torch, and neither Lightning nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from variants.errors import VariantError
from variants.listing import CLASSES
from variants.registry import names, register, resolve
from variants.variant import BaseVariant, Variant

if TYPE_CHECKING:
    from variants.adapters.adapted_model import AdaptedModel as AdaptedModel
    from variants.adapters.adapted_model import attach as attach
    from variants.formats.native import load as load
    from variants.layer import AdapterLayer as AdapterLayer
    from variants.layer import check_rank as check_rank
    from variants.new_tokens import add_tokens as add_tokens

_MODULES = {
    "AdapterLayer": "layer",
    "AdaptedModel": "adapters.adapted_model",
    "add_tokens": "new_tokens",
    "attach": "adapters.adapted_model",
    "check_rank": "layer",
    "load": "formats.native",
    **{name: f"methods.{method}" for method, name in CLASSES.items()},
}
"""Where the public names stand that need torch, the class of every built-in method among them."""
__all__ = ["BaseVariant", "Variant", "VariantError", "names", "register", "resolve", *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a module that needs torch when one of its names is first asked for: ``--help`` does without."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"variants.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'variants' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are imported on demand among them."""
    return sorted({*globals(), *__all__})
