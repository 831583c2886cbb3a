"""The formats of adapter files, told apart by their contents."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError
from variants.formats.boundary import refusing
from variants.layer import AdapterLayer
from variants.variant import BaseVariant
from variants.wrappers import unwrapped

FORMATS = ("ours", "peft", "diffusers", "kohya", "loralib")
SINGLE_FILES = ("diffusers", "kohya")
"""Formats of files that are for several models of a pipeline."""
_KOHYA = re.compile(r"lora_(?:unet|transformer|te\d?)_\w+\.")


def recognise(path: str | os.PathLike) -> str:
    """Which of :data:`FORMATS` a path holds, told by its files.

    Raises:
        VariantError: it is none of them.
    """
    path = Path(path)
    with refusing(f"{path} cannot be read"):
        if (path / "adapter.json").is_file():
            return "ours"
        if (path / "adapter_config.json").is_file():
            return "peft"
        if (path / "pytorch_lora_weights.safetensors").is_file():
            return "diffusers"
        if path.suffix == ".safetensors" and path.is_file():
            with safe_open(path, "pt") as file:
                return "kohya" if any(map(_KOHYA.match, file.keys())) else "diffusers"
        if path.is_file():
            return "loralib"
    raise VariantError(
        f"{path} is no adapter: neither a folder with adapter.json (ours), adapter_config.json (PEFT) or "
        "pytorch_lora_weights.safetensors (diffusers) nor a file (of diffusers', kohya's or loralib's)"
    )


def base_of(model: nn.Module | AdaptedModel) -> nn.Module:
    """The base model of a handle, or what is inside of a model's wrappers (:func:`variants.wrappers.unwrapped`)."""
    return model.model if isinstance(model, AdaptedModel) else unwrapped(model)


def by_module(layers: Iterable[AdapterLayer]) -> dict[str, list[AdapterLayer]]:
    """Layers by the path of their module, the slices of one module together."""
    found: dict[str, list[AdapterLayer]] = {}
    for layer in layers:
        found.setdefault(layer.site.module_path, []).append(layer)
    return found


def is_stand_in(model: nn.Module) -> bool:
    """Whether ``model`` is made up of an adapter file's own shapes (:func:`variants.base_model.stand_in`)."""
    return getattr(model, "is_stand_in", False)


def tied_names(model: nn.Module) -> dict[str, list[str]]:
    """Every name of a parameter -> all names of it, where it has several (an embedding and the output map)."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: tied for tied in names.values() if len(tied) > 1 for name in tied}


def install(
    model: nn.Module | AdaptedModel, name: str, variant: BaseVariant, tensors: dict[str, Tensor], head: Iterable[str]
) -> AdaptedModel:
    """Build ``variant`` and fill it with tensors that another tool trained.

    Args:
        tensors: by the names of :meth:`AdaptedModel.state_dict`; a part of the head that they lack stays the base's.
        head: names of the model's own parameters among them.

    Raises:
        VariantError: a tensor has no place in the model, or does not fit it.
    """
    if isinstance(model, AdaptedModel):
        adapted = model
        if unknown := [key for key in head if key not in adapted.head]:
            raise VariantError(f"the file trains {unknown[0]}, which is not part of this model's head")
    else:
        adapted = AdaptedModel(base_of(model), list(head))
    with adapted.adding(name, variant):
        own = adapted.state_dict()
        adapted.load_state_dict({key: own[key] for key in adapted.adapter.in_place} | tensors)
    return adapted


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, in one piece, none in another's memory."""
    return {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
