"""Adapter files: ``adapter.safetensors`` and a readable ``adapter.json``, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.boundary import build, check, read_json, read_tensors, refusing
from variants.named import named_in
from variants.outside.files import code_hash
from variants.registry import spec_of
from variants.sites.architectures import head_parameters
from variants.variant import BaseVariant

TENSORS, CONFIG = "adapter.safetensors", "adapter.json"
FORMAT = 1
_INITIAL = "initial::"
_KINDS = {
    "variant": str,
    "code": str | None,
    "options": dict,
    "seed": int,
    "head": list[str] | None,
    "base": dict,
    "epoch": int,
    "task": str | None,
}
_BASE_KINDS = {"model_type": str | None, "class": str | None, "fingerprint": str | None, "sketch": str | None}
"""Types of the entries of adapter.json that are read here or by the project's commands."""


@torch.no_grad()
def fingerprint(model: nn.Module, skip: set[str] = frozenset()) -> str:
    """Content hash of a model's parameters, those in ``skip`` left out; 16 hex digits.

    Values are rounded to bf16 first, so that one base loaded in fp32 and in bf16 has one fingerprint.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if name not in skip and ".adapter." not in f".{name}":
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(parameter.detach().to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy())
    return digest.hexdigest()[:16]


def save_adapter(adapted: AdaptedModel, folder: str | os.PathLike, *, spec: str | None = None, **notes: Any) -> Path:
    """Write the active adapter: all that trains, head included, and its layers' persistent state.

    Args:
        folder: made if need be.
        spec: how ``--variant`` names the class, where that is not what it was resolved by.
        notes: anything readable that belongs with it, such as the task or the backbone's name.
    """
    adapter, folder = adapted.adapter, Path(folder)
    adapted.unmerge()
    tensors = {k: t.detach().contiguous().cpu() for k, t in adapted.state_dict(trimmed=True).items()}
    tensors |= {_INITIAL + k: t.contiguous().cpu() for k, t in adapter.initial.items()}
    config = {
        "format": FORMAT,
        "variant": spec or spec_of(type(adapter.variant)),
        "code": code_hash(type(adapter.variant)),
        "options": adapter.variant.options(),
        "seed": adapter.seed,
        "head": adapted.head,
        "base": {
            "model_type": getattr(getattr(adapted.model, "config", None), "model_type", None),
            "class": type(adapted.model).__name__,
            "fingerprint": _base_fingerprint(adapted),
        },
        "parameters": adapted.count(),
        **notes,
    }
    write_atomic(folder / TENSORS, save(tensors, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2, default=str) + "\n").encode())
    return folder


def read_adapter(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of an adapter folder, the configuration's entries of the types of `_KINDS`.

    Raises:
        VariantError: a file is missing or is not what it should be.
    """
    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise VariantError(f"{folder} is not an adapter folder: it has no {name}")
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise VariantError(f"{folder / CONFIG} is not of format {FORMAT}, the one this version reads")
    if missing := [key for key in ("variant", "options") if key not in config]:
        raise VariantError(f"{folder / CONFIG} lacks {missing[0]!r}")
    check(folder / CONFIG, config, _KINDS)
    check(folder / CONFIG, config.get("base", {}), _BASE_KINDS)
    return config, read_tensors(folder / TENSORS)


def restore(adapted: AdaptedModel, folder: str | os.PathLike) -> None:
    """Give the active adapter the values it had when it was saved to ``folder``, in the same run."""
    _, tensors = read_adapter(folder)
    adapted.load_state_dict({key: tensor for key, tensor in tensors.items() if not key.startswith(_INITIAL)})


def load(
    model: nn.Module | AdaptedModel,
    folder: str | os.PathLike,
    *,
    name: str = "default",
    strict: bool = False,
    variant: str | type[BaseVariant] | None = None,
) -> AdaptedModel:
    """Put the adapter in ``folder`` on ``model``, or beside the others of an attached one.

    Args:
        strict: refuse a base model, or a variant's code, other than those of its training, instead of warning.
        variant: the class, or ``FILE.py:CLASS``, of an adapter whose variant is neither built in nor registered: the
            folder names it, but code is loaded at your word alone.

    Raises:
        VariantError: the first thing in the folder that is wrong or does not fit, or (strict) another base model.
    """
    folder = Path(folder)
    config, tensors = read_adapter(folder)
    cls = named_in(folder, config["variant"], config.get("code"), variant, strict)
    own = build(folder, cls, config["options"], tensors.values())
    head = config.get("head")
    with refusing(f"{folder} does not fit this model"):
        adapted = (
            model
            if isinstance(model, AdaptedModel)
            else AdaptedModel(model, head_parameters(model) if head is None else head)
        )
        initial = {k[len(_INITIAL) :]: t for k, t in tensors.items() if k.startswith(_INITIAL)}
        with adapted.adding(name, own, config.get("seed", 0), initial):
            adapted.load_state_dict({k: t for k, t in tensors.items() if not k.startswith(_INITIAL)})
            _check_base(adapted, config, folder, strict)
    return adapted


def _base_fingerprint(adapted: AdaptedModel) -> str | None:
    """Of what stays frozen, sites of a residual variant as they were before: equal for every adapter of one base."""
    if getattr(adapted.model, "is_stand_in", False):
        return None  # the shapes of a base model without its weights (variants/base_model.py)
    active, skip = adapted.active, {*adapted.head, *adapted.adapter.in_place}
    if not adapted.adapter.residual:
        return fingerprint(adapted.model, skip)
    adapted.deactivate()
    try:
        return fingerprint(adapted.model, skip)
    finally:
        adapted.switch(active)


def _check_base(adapted: AdaptedModel, config: dict[str, Any], folder: str | os.PathLike, strict: bool) -> None:
    expected, found = config.get("base", {}).get("fingerprint"), _base_fingerprint(adapted)
    if expected and found and expected != found:
        message = f"{folder} was trained on another base model (fingerprint {expected}, this model has {found})"
        if strict:
            raise VariantError(message)
        warnings.warn(message, stacklevel=3)
