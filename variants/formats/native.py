"""Adapter files: ``adapter.safetensors`` and a readable ``adapter.json``, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any, TypedDict

from safetensors.torch import save
from torch import Tensor, nn

from variants import new_tokens
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import INITIAL
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.boundary import build, check, read_json, read_tensors, refuse_wrapped, refusing, sha256_of
from variants.formats.common import base_of, is_stand_in, tied_names
from variants.formats.fingerprint import alike, fingerprint, sketch
from variants.named import named_in
from variants.outside.files import code_hash
from variants.registry import spec_of
from variants.sites.architectures import head_parameters
from variants.variant import BaseVariant
from variants.wrappers import is_sharded

TENSORS, CONFIG = "adapter.safetensors", "adapter.json"
FORMAT = 1
_Base = TypedDict(
    "_Base",
    dict.fromkeys(("model_type", "class", "fingerprint", "sketch"), str | None) | {"tied": dict[str, list[str]]},
    total=False,
)


class _Config(TypedDict, total=False):
    """Types of the entries of adapter.json that are read here or by the project's commands."""

    variant: str
    code: str | None
    options: dict
    seed: int
    head: list[str] | None
    base: _Base
    epoch: int
    task: str | None
    backbone: dict
    problem_type: str | None
    labels: list[str]
    new_tokens: dict
    sha256: str


def save_adapter(adapted: AdaptedModel, folder: str | os.PathLike, *, spec: str | None = None, **notes: Any) -> Path:
    """Write the active adapter: all that trains, head included, and its layers' persistent state.

    Args:
        folder: made if need be.
        spec: how ``--variant`` names the class, where that is not what it was resolved by.
        notes: anything readable that belongs with it, such as the task or the backbone's name.
    """
    adapter, folder = adapted.adapter, Path(folder)
    with adapted.apart():
        tensors = {k: t.detach().contiguous().cpu() for k, t in adapted.state_dict(trimmed=True).items()}
        tensors |= {INITIAL + k: t.contiguous().cpu() for k, t in adapter.initial.items()}
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
                **_base_values(adapted),
                "tied": _tied(adapted),
            },
            "parameters": adapted.count(),
            **({"new_tokens": new} if (new := new_tokens.described(adapted.model)) else {}),
            **notes,
        }
    content = save(tensors, metadata={"format": "pt"})
    config["sha256"] = hashlib.sha256(content).hexdigest()
    write_atomic(folder / TENSORS, content)
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2, default=str) + "\n").encode())
    return folder


def _tied(adapted: AdaptedModel) -> dict[str, list[str]]:
    """Other names of what trains in place, where the model ties it: a reader without the model does not see it."""
    tied = tied_names(adapted.model)
    return {name: tied[name] for name in adapted.adapter.in_place if name in tied}


def read_adapter(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of an adapter folder, the configuration's entries of the types of `_Config`.

    Raises:
        VariantError: a file is missing or is not what it should be, or the tensors are not those that were saved with
            the configuration (``sha256``, which older files lack).
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
    check(folder / CONFIG, config, _Config)
    if "sha256" in config and sha256_of(folder / TENSORS) != config["sha256"]:
        raise VariantError(
            f"{folder} is damaged: {TENSORS} is not the file that {CONFIG} was saved with (another SHA-256): take both "
            "from one copy of the folder"
        )
    return config, read_tensors(folder / TENSORS)


def restore(adapted: AdaptedModel, folder: str | os.PathLike) -> None:
    """Give the active adapter the values it had when it was saved to ``folder``, in the same run."""
    _, tensors = read_adapter(folder)
    adapted.load_state_dict({key: tensor for key, tensor in tensors.items() if not key.startswith(INITIAL)})


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
    with refusing(f"{folder} does not fit this model"):
        config, tensors = read_adapter(folder)
        cls = named_in(folder, config["variant"], config.get("code"), variant, strict)
        method, head, base = build(folder, cls, config["options"], tensors.values()), config.get("head"), base_of(model)
        refuse_wrapped(folder, tensors, base)
        if new := config.get("new_tokens"):
            _give_new_tokens(base, new, folder)
        if isinstance(model, AdaptedModel):
            adapted = model
        else:
            adapted = AdaptedModel(base, head_parameters(base) if head is None else head)
        initial = {k[len(INITIAL) :]: t for k, t in tensors.items() if k.startswith(INITIAL)}
        with adapted.adding(name, method, config.get("seed", 0), initial):
            adapted.load_state_dict({k: t for k, t in tensors.items() if not k.startswith(INITIAL)})
            _check_base(adapted, config, folder, strict)
    return adapted


def _give_new_tokens(base: nn.Module, new: dict[str, Any], folder: Path) -> None:
    """Rows for the tokens that an adapter has trained, unless the model has them already."""
    new, own = new_tokens.check_described(new, folder / CONFIG), new_tokens.described(base)
    if own is None:
        new_tokens.prepare(base, new)
    elif own != new:
        raise VariantError(f"the model has other new tokens ({own['tokens'][0]!r}, ...) than {folder}")


def note_base(adapted: AdaptedModel) -> None:
    """Work out now what files say of the base, before it is put in shards, which nobody can read."""
    adapted.base_values = _base_values(adapted)


def _base_values(adapted: AdaptedModel) -> dict[str, str | None]:
    """Fingerprint and sketch of what stays frozen, sites of a residual variant as they were before: equal for every
    adapter of one base."""
    if is_sharded(adapted.model):
        return adapted.base_values
    if is_stand_in(adapted.model):
        return {"fingerprint": None}
    active, skip = adapted.active, {*adapted.head, *adapted.adapter.in_place}
    if adapted.adapter.first:
        adapted.deactivate()
    try:
        return {"fingerprint": fingerprint(adapted.model, skip), "sketch": sketch(adapted.model, skip)}
    finally:
        if adapted.active is None:
            adapted.switch(active)


def _check_base(adapted: AdaptedModel, config: dict[str, Any], folder: str | os.PathLike, strict: bool) -> None:
    expected, found = config.get("base", {}), _base_values(adapted)
    wanted, own = expected.get("fingerprint"), found["fingerprint"]
    if wanted and own and wanted != own and not alike(expected.get("sketch"), found["sketch"]):
        message = f"{folder} was trained on another base model (fingerprint {wanted}, this model has {own})"
        if strict:
            raise VariantError(message)
        warnings.warn(message, stacklevel=3)
