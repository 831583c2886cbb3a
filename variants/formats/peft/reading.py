"""A folder of PEFT's, read and checked, as an adapter on a model."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError, first_line, shown
from variants.formats.boundary import check, read_json, read_tensors, refuse_wrapped, refusing
from variants.formats.common import base_of, install, is_stand_in, tied_names
from variants.formats.peft.common import CONFIG, NAMES, PREFIX, TENSORS, flat
from variants.formats.peft.forms import FORMS, described
from variants.formats.peft.lora import check_start
from variants.formats.peft.methods import NEEDS, NO_EFFECT, READ, Config, kind
from variants.formats.peft.prefix import load_prefix
from variants.formats.peft.vera import BANK, read_bank
from variants.sites.kinds import is_linear
from variants.sites.site import Site
from variants.sites.targets import name_target

ALPHAS = ("lora_alpha", "alpha", "scaling", "randlora_alpha", "delora_lambda")
"""Options that need not be sizes."""


def read(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a PEFT folder, the options that are read here of their types.

    Raises:
        VariantError: a file is missing or damaged, or an option has no counterpart here.
    """
    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise VariantError(f"{folder} has no {name}; PEFT writes it with save_pretrained()")
    config = read_json(folder / CONFIG)
    check(folder / CONFIG, config, Config)
    for key in NEEDS[kind(config)]:
        if config.get(key) is None:
            raise VariantError(f"{folder / CONFIG} lacks {key!r}")
        if key not in ALPHAS and config[key] < 1:
            raise VariantError(f"{folder / CONFIG}: {key}={config[key]} is not above 0")
    check_start(folder, config)
    options = {k: v for k, v in config.items() if k not in {*NO_EFFECT, "init_lora_weights"}}
    if config.get("bias", "none") == "none":
        options.pop("bias", None)
    if unknown := [key for key, value in options.items() if value]:
        option = f"{unknown[0][:60]}={shown(options[unknown[0]])}"
        raise VariantError(f"{folder}: PEFT's option {option} has no counterpart here")
    return config, read_tensors(folder / TENSORS)


def split(tensors: dict[str, Tensor], name: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Layers' tensors by module path and our name, and the others without PEFT's prefix.

    Raises:
        VariantError: a layer lacks a tensor, or has one that is no matrix or vector as it should be.
    """
    if name in FORMS:
        return _split_form(tensors, name)
    ours = {theirs: own for own, theirs in NAMES[name].items()}
    ends = re.compile(rf"(.+)\.({'|'.join(map(re.escape, ours))})")
    layers: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        key = key.removeprefix(PREFIX)
        if match := ends.fullmatch(key):
            layers.setdefault(match[1], {})[ours[match[2]]] = tensor
        elif key not in BANK:
            others[key] = tensor
    for path, own in layers.items():
        if missing := [theirs for theirs, key in ours.items() if key not in own]:
            raise VariantError(f"the file lacks {PREFIX}{path}.{missing[0]}")
        for key in own:
            own[key] = flat(key, own[key])
            if key in ("lora_A", "lora_B") and own[key].ndim != 2:
                raise VariantError(f"{PREFIX}{path}.{key} is {tuple(own[key].shape)} in the file, and no matrix")
    return layers, others


def _split_form(tensors: dict[str, Tensor], name: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """As :func:`split` of a method in `forms`, its tensors by PEFT's names still."""
    form = FORMS[name]
    ends = re.compile(rf"(.+)\.({'|'.join(map(re.escape, sorted(form.names.values(), key=len, reverse=True)))})")
    layers: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key in form.shared:
            continue
        key = key.removeprefix(PREFIX)
        if match := ends.fullmatch(key):
            layers.setdefault(match[1], {})[match[2]] = tensor
        elif key.rpartition(".")[2] not in form.ignored:
            others[key] = tensor
    return layers, others


def load(model: nn.Module | AdaptedModel, folder: str | os.PathLike, *, name: str = "default") -> AdaptedModel:
    """Put the adapter of a PEFT folder on ``model``, or beside the others of an attached one.

    Raises:
        VariantError: an option or a tensor of the file has no counterpart here, or does not fit the model.
    """
    folder = Path(folder)
    config, tensors = read(folder)
    base = base_of(model)
    refuse_wrapped(folder, (key.removeprefix(PREFIX) for key in tensors), base)
    if kind(config) == "prefix_tuning":
        with refusing(f"{folder} does not fit this model"):
            return load_prefix(model, folder, tensors, name)
    layers, others = split(tensors, kind(config))
    if not layers:
        raise VariantError(f"{folder / TENSORS} holds no layer of {kind(config)}: it would load as an untrained one")
    with refusing(f"{folder} does not fit this model"):
        return _install(model, base, folder, config, tensors, layers, others, name)


def _install(
    model: nn.Module | AdaptedModel,
    base: nn.Module,
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    layers: dict[str, dict[str, Tensor]],
    others: dict[str, Tensor],
    name: str,
) -> AdaptedModel:
    known = dict(base.named_modules())
    if unknown := [path for path in layers if path not in known or not is_linear(known[path])]:
        raise VariantError(f"{folder} adapts {unknown[0]}, which is no linear map of this model")
    order = {path: i for i, path in enumerate(known)}
    sites = [Site(known[path], path, path) for path in sorted(layers, key=order.__getitem__)]
    for path in layers:
        if mask := (config.get("rank_pattern") or {}).get(f"{path}.lora_E"):
            layers[path]["kept"] = torch.tensor(mask, dtype=torch.float32)
    transposed = [site.path for site in sites if site.is_transposed]
    if config.get("init_lora_weights") == "olora" and transposed:
        raise VariantError(f"PEFT takes OLoRA's factors of {transposed[0]} from its transpose, as no method here does")
    target = name_target(base, sites, is_stand_in(base))
    if form := FORMS.get(kind(config)):
        try:
            layers = {path: form.ours(own, config) for path, own in layers.items()}
            for path, own in form.read_shared(tensors, sites).items():
                layers[path] = layers[path] | own
        except (KeyError, IndexError, RuntimeError) as error:
            raise VariantError(f"the tensors are not those of {kind(config)}: {first_line(error)}") from error
        variant = described(folder, kind(config), config, target, layers)
    else:
        variant = READ[kind(config)](folder, config, target, layers)
    if kind(config) == "vera":
        from variants.methods.vera import bank_key

        a, b = read_bank(config, tensors, sites)
        first = {bank_key(site, variant): site.path for site in reversed(sites)}  # of those that share a pair
        for site in sites:
            if site.path in first.values():
                layers[site.path] |= {"bank.A": a[:, : site.in_features], "bank.B": b[: site.out_features]}
    if (saved := config.get("modules_to_save")) and not others:
        warnings.warn(
            f"{folder} lacks the head that was trained with it ({', '.join(saved)}), as what PEFT has converted from "
            "another start does: the base's stays",
            stacklevel=4,
        )
    others = _of_this_model(folder, base, others, config.get("modules_to_save") or [])
    parameters = [key for key, _ in base.named_parameters()]
    flat = {f"{path}.{key}": tensor for path, own in layers.items() for key, tensor in own.items()}
    return install(model, name, variant, flat | others, [key for key in parameters if key in others])


def _same(tensor: Tensor, own: Tensor) -> bool:
    """A frozen weight of the file is the model's, up to another precision."""
    return tensor.shape == own.shape and torch.allclose(tensor.to(own), own, rtol=1e-2, atol=1e-3)


def _of_this_model(folder: Path, base: nn.Module, others: Mapping[str, Tensor], copied: list[str]) -> dict[str, Tensor]:
    """What the file holds of the model's own parameters, under the first name of each.

    Args:
        copied: ``modules_to_save``: PEFT trains a copy of each, apart from what the model ties it with.

    Raises:
        VariantError: the model has no such parameter, or ties what PEFT trained apart.
    """
    first = {id(parameter): name for name, parameter in base.named_parameters()}
    names = {name: first[id(p)] for name, p in base.named_parameters(remove_duplicate=False)}
    tied, found = tied_names(base), {}
    parameters = dict(base.named_parameters(remove_duplicate=False))
    for key, tensor in others.items():
        own = parameters.get(key.replace(".base_layer.", "."))
        if ".base_layer." in key and own is not None and _same(tensor, own):
            continue  # PEFT writes the frozen weight of an embedding or output map that it adapts as well
        if key not in names:
            raise VariantError(f"{folder} has {key}, which this model does not have")
        module = key.rpartition(".")[0]
        apart = any(module == each or module.endswith(f".{each}") for each in copied)
        for other in tied.get(key, [key]):
            same = others[other] is tensor or torch.equal(others[other], tensor) if other in others else not apart
            if not same:
                raise VariantError(
                    f"{folder} trains {key} apart from {other}, and this model ties them: load it on a model with "
                    "tie_word_embeddings=False, or train it in PEFT with ensure_weight_tying=True"
                )
        found[names[key]] = tensor
    return found
