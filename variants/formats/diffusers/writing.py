"""Adapters as diffusers' pipelines load them: one safetensors file, with PEFT's configuration in its header.

Without that configuration diffusers takes α for the rank, whatever it was.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save as serialise

from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.common import copies
from variants.formats.diffusers.parts import COMPONENTS, Parts, parts_of
from variants.formats.peft.as_lora import AsLoRA
from variants.formats.peft.common import NAMES, number, shaped
from variants.formats.peft.writing import target_modules

FILE = "pytorch_lora_weights.safetensors"
METADATA = "lora_adapter_metadata"
"""Of the header: a JSON object with the options of PEFT's configurations, each behind its component's name."""


def save(adapters: Mapping[str, AdaptedModel], path: str | os.PathLike, as_lora: bool | AsLoRA = False) -> Path:
    """Write the active adapters of a pipeline's models, as ``pipe.load_lora_weights(path)`` reads them.

    Args:
        adapters: by component: unet, transformer, text_encoder, text_encoder_2, text_encoder_3.
        path: a file ``*.safetensors``, or a folder, which gets ``pytorch_lora_weights.safetensors``.
        as_lora: write other methods as LoRA, as `variants.formats.peft.save` does.

    Returns:
        The file.

    Raises:
        VariantError: diffusers has no form for a method, or for what it trains beside its layers.
    """
    file = Path(path) if Path(path).suffix == ".safetensors" else Path(path) / FILE
    tensors, metadata = {}, {}
    for component, adapted in adapters.items():
        if component not in COMPONENTS:
            raise VariantError(f"{component!r} is no model of a pipeline: choose {', '.join(COMPONENTS)}")
        parts = parts_of(adapted, as_lora, "diffusers")
        inside = text_model(adapted) if component.startswith("text_encoder") else ""
        for module, found in parts.maps.items():
            for own, theirs in NAMES[parts.method].items():
                prefix = "" if module.startswith(inside) else inside
                tensors[f"{component}.{prefix}{module}.{theirs}"] = shaped(found.site, own, found.tensors[own])
        metadata |= {f"{component}.{key}": value for key, value in _options(adapted, parts).items()}
    header = {"format": "pt", METADATA: json.dumps(metadata, indent=2, sort_keys=True)}
    write_atomic(file, serialise(copies(tensors), metadata=header))
    return file


def text_model(adapted: AdaptedModel) -> str:
    """What stands before the names in a text encoder of CLIP's in files, whether or not transformers has it now."""
    return "text_model." if type(adapted.model).__name__.startswith("CLIPText") else ""


def _options(adapted: AdaptedModel, parts: Parts) -> dict[str, Any]:
    """PEFT's configuration: the commonest rank and alpha, and the maps where they are others."""
    sizes = {path: (found.r, number(found.alpha)) for path, found in parts.maps.items()}
    r, alpha = Counter(sizes.values()).most_common(1)[0][0]

    def key(path: str) -> str:  # PEFT takes a key for the end of a name
        return f"^{path}" if any(other.endswith(f".{path}") for other in sizes) else path

    return {
        "r": r,
        "lora_alpha": alpha,
        "rank_pattern": {key(path): k for path, (k, _) in sizes.items() if k != r},
        "alpha_pattern": {key(path): a for path, (_, a) in sizes.items() if a != alpha},
        "target_modules": target_modules(adapted.model, list(sizes), []),
        "lora_dropout": getattr(adapted.variant, "dropout", 0.0) if not parts.left_out else 0.0,
        "bias": "none",
        "use_rslora": parts.rslora,
        "use_dora": parts.method == "dora",
    }
