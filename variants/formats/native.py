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
from variants.fingerprint import alike
from variants.formats.boundary import build, check, read_json, read_tensors, refuse_wrapped, refusing, sha256_of
from variants.formats.common import base_of, tied_names
from variants.named import named_in
from variants.outside.files import code_hash
from variants.quantisation import quantise, scheme_in
from variants.registry import spec_of
from variants.sites.architectures import head_parameters, model_type
from variants.sites.kinds.few_bits import Quantisation, quantisation_of
from variants.variant import BaseVariant

TENSORS, CONFIG = "adapter.safetensors", "adapter.json"
FORMAT = 1
_NAMES = dict.fromkeys(("model_type", "class", "fingerprint", "sketch"), str | None)
_Base = TypedDict(
    "_Base",
    _NAMES | {"tied": dict[str, list[str]], "kernels": dict[str, list[int]], "quantisation": dict},
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
                "model_type": model_type(adapted.model) or None,
                "class": type(adapted.model).__name__,
                **adapted.base_values(),
                "tied": _tied(adapted),
                **({"quantisation": known.described()} if (known := quantisation_of(adapted.model)) else {}),
                **({"kernels": kernels} if (kernels := _kernels(adapted)) else {}),
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


def copy_adapter(source: str | os.PathLike, target: str | os.PathLike, **notes: Any) -> None:
    """Write the adapter in folder ``source`` to folder ``target`` too, with notes of its own in place of those there.

    Raises:
        VariantError: as `read_adapter`.
    """
    source, target = Path(source), Path(target)
    config = read_adapter(source)[0] | notes
    write_atomic(target / TENSORS, (source / TENSORS).read_bytes())
    write_atomic(target / CONFIG, (json.dumps(config, indent=2, default=str) + "\n").encode())


def _kernels(adapted: AdaptedModel) -> dict[str, list[int]]:
    """(C, k, k) of each site that is a convolution: a reader without the model does not see it."""
    sites = [layer.site for layer in adapted.layers if layer.site.window]
    return {site.module_path: [site.window.channels, *site.window.kernel] for site in sites}


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
    quantised: bool = False,
) -> AdaptedModel:
    """Put the adapter in ``folder`` on ``model``, or beside the others of an attached one.

    Args:
        strict: refuse a base model, or a variant's code, other than those of its training, instead of warning.
        variant: the class, or ``FILE.py:CLASS``, of an adapter whose variant is neither built in nor registered: the
            folder names it, but code is loaded at your word alone.
        quantised: keep the base in few bits, as it was when the adapter was trained (`variants.quantisation`).

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
            if quantised and (trained_on := config.get("base", {}).get("quantisation")):
                scheme, dtype = scheme_in(trained_on, folder)
                quantise(adapted, scheme, compute_dtype=dtype)
            _check_base(adapted, config, folder, strict)
    return adapted


def _give_new_tokens(base: nn.Module, new: dict[str, Any], folder: Path) -> None:
    """Rows for the tokens that an adapter has trained, unless the model has them already."""
    new, own = new_tokens.check_described(new, folder / CONFIG), new_tokens.described(base)
    if own is None:
        new_tokens.prepare(base, new)
    elif own != new:
        raise VariantError(f"the model has other new tokens ({own['tokens'][0]!r}, ...) than {folder}")


def _check_base(adapted: AdaptedModel, config: dict[str, Any], folder: str | os.PathLike, strict: bool) -> None:
    expected, found = config.get("base", {}), adapted.base_values()
    wanted, own = expected.get("fingerprint"), found["fingerprint"]
    if wanted and own and wanted != own and not alike(expected.get("sketch"), found["sketch"]):
        message = f"{folder} was trained on another base model (fingerprint {wanted}, this model has {own})"
        if strict:
            raise VariantError(message)
        warnings.warn(message, stacklevel=3)
    _check_bits(expected.get("quantisation"), quantisation_of(adapted.model), folder)


def _check_bits(wanted: dict[str, Any] | None, own: Quantisation | None, folder: str | os.PathLike) -> None:
    """Warn where the base is kept in other bits than at the adapter's training, with the difference to expect."""
    then, now = (wanted or {}).get("scheme"), own.scheme if own else None
    if then == now:
        return
    errors = [(wanted or {}).get("relative_error"), own.relative_error if own else None]
    known = [f"{error:.1%}" for error in errors if isinstance(error, float)]
    off = f", whose weights are off by {' and '.join(known)} of their size" if known else ""
    mend = f"quantise(adapted, {then!r}) makes them the same" if then else "load the model in 16 or 32 bits instead"
    warnings.warn(
        f"{folder} was trained on a base {f'in {then}' if then else 'that was not quantised'}, and this one is "
        f"{f'in {now}' if now else 'not quantised'}{off}: {mend}",
        stacklevel=4,
    )
