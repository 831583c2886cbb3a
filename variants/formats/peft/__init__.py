"""PEFT's adapter folders (``adapter_config.json``, ``adapter_model.safetensors``): LoRA, DoRA, VeRA and AdaLoRA."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.common import install, is_stand_in
from variants.formats.peft.common import NAMES, Map, kind
from variants.formats.peft.methods import NO_EFFECT, PLAIN_STARTS, READ, WRITE
from variants.formats.peft.vera import bank, read_bank
from variants.layer import AdapterLayer
from variants.sites.kinds import is_linear
from variants.sites.site import Site
from variants.sites.targets import name_target

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."

TASKS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
}
"""End of a transformers class name -> PEFT's ``task_type``."""
_HEADS = {"SEQ_CLS": ("classifier", "score"), "TOKEN_CLS": ("classifier", "score"), "QUESTION_ANS": ("qa_outputs",)}
"""Modules that PEFT saves with any adapter of such a task, where the model has them."""


# ---- writing -----------------------------------------------------------------------------------------------


def save(adapted: AdaptedModel, folder: str | os.PathLike) -> Path:
    """Write the active adapter as PEFT would, head included; ``PeftModel.from_pretrained`` reads it.

    LoRA on slices of a fused map becomes one LoRA of the whole map, of the ranks' sum, which computes the same.

    Raises:
        VariantError: PEFT has no form for the variant, for slices of it, or for what it trains beside its layers.
    """
    variant, folder = adapted.variant, Path(folder)
    if variant.name not in NAMES or variant.subtract_initial or not adapted.layers:
        raise VariantError(f"PEFT has no form for {variant.name}: it can be written for {', '.join(NAMES)}")
    maps = _maps(adapted)
    heads = _whole_modules(adapted.model, adapted.adapter.in_place)
    tensors = {
        f"{_PREFIX}{path}.{theirs}": each.tensors[own][:, None] if own == "lora_E" else each.tensors[own]
        for path, each in maps.items()
        for own, theirs in NAMES[variant.name].items()
    }
    if variant.name == "vera":
        tensors |= bank(adapted.layers)
    for head in heads:
        tensors |= {f"{_PREFIX}{head}.{k}": t for k, t in adapted.model.get_submodule(head).state_dict().items()}
    config = _config(adapted, maps, heads)
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    write_atomic(folder / TENSORS, serialise(plain, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return folder


def _maps(adapted: AdaptedModel) -> dict[str, Map]:
    """The adapter's layers by module, the slices of one module fused."""
    by_module: dict[str, list[AdapterLayer]] = {}
    for layer in adapted.layers:
        by_module.setdefault(layer.site.module_path, []).append(layer)
    name, maps = adapted.variant.name, {}
    for path, layers in by_module.items():
        if layers[0].site.is_whole:
            config = layers[0].config
            rank = config.init_r if name == "adalora" else config.r
            maps[path] = Map(layers[0].site, layers[0].trimmed(), rank, getattr(config, "alpha", 1.0))
        elif name == "lora":
            maps[path] = _fuse(layers)
        else:
            raise VariantError(f"PEFT cannot express {name} on slices of {path}: only LoRA can become one whole map")
    return maps


def _fuse(layers: list[AdapterLayer]) -> Map:
    """LoRA of slices as LoRA of the whole: A stacked, B block-structured, alpha such that the scaling stays."""
    site, scaling = layers[0].site, layers[0].scaling
    blocks = [layer.site.rows.spread(layer.lora_B * (layer.scaling / scaling)) for layer in layers]
    a, b = torch.cat([layer.lora_A for layer in layers]), torch.cat(blocks, dim=1)
    r = len(a)
    return Map(site.whole(), {"lora_A": a, "lora_B": b}, r, scaling * (math.sqrt(r) if layers[0].config.rslora else r))


def _whole_modules(model: nn.Module, names: Iterable[str]) -> list[str]:
    """The outermost modules whose parameters are exactly ``names``: PEFT saves whole modules only."""
    wanted = set(names)
    inside = {
        path: {f"{path}.{name}" for name, _ in module.named_parameters()} for path, module in model.named_modules()
    }
    modules: list[str] = []
    for path, own in inside.items():
        if path and own and own <= wanted and not any(path.startswith(f"{m}.") for m in modules):
            modules.append(path)
    if left := wanted - set().union(*(inside[m] for m in modules)):
        raise VariantError(f"PEFT saves whole modules, and only a part of the one of {sorted(left)[0]} is trained")
    return modules


def _config(adapted: AdaptedModel, maps: dict[str, Map], heads: list[str]) -> dict[str, Any]:
    model, variant = adapted.model, adapted.variant
    task = next((task for end, task in TASKS.items() if type(model).__name__.endswith(end)), None)
    if task in _HEADS:
        heads = list(dict.fromkeys([*heads, *_HEADS[task]])) if heads else []
    common = {
        "auto_mapping": None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "bias": "none",
        "fan_in_fan_out": any(each.site.is_transposed for each in maps.values()),
        "inference_mode": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "modules_to_save": heads or None,
        "revision": None,
        "target_modules": _target_modules(model, list(maps), heads),
        "task_type": task if heads or task not in _HEADS else None,
    }
    return common | WRITE[variant.name](variant, maps)


def _target_modules(model: nn.Module, paths: list[str], heads: list[str]) -> list[str]:
    """The last names of the maps where PEFT finds exactly them by these, else their full names."""
    leaves = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    found = {
        path
        for path, _ in model.named_modules()
        if path.rpartition(".")[2] in leaves and not any(path == h or path.startswith(f"{h}.") for h in heads)
    }
    return paths if is_stand_in(model) or found != set(paths) else leaves


# ---- reading -----------------------------------------------------------------------------------------------


def read(folder: str | os.PathLike) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a PEFT folder.

    Raises:
        VariantError: a file is missing or damaged, or an option has no counterpart here.
    """
    folder = Path(folder)
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise VariantError(f"{folder} has no {name}; PEFT writes it with save_pretrained()")
    try:
        config = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        tensors = load_file(folder / TENSORS)
    except (ValueError, TypeError, SafetensorError) as error:
        raise VariantError(f"{folder} is damaged: {error}") from error
    kind(config)
    if (start := config.get("init_lora_weights")) not in PLAIN_STARTS:
        raise VariantError(
            f"{folder}: init_lora_weights={start!r} changes the base weights; convert it to LoRA in PEFT"
        )
    options = {k: v for k, v in config.items() if k not in {*NO_EFFECT, "init_lora_weights"}}
    if config.get("bias", "none") == "none":
        options.pop("bias", None)
    if unknown := [key for key, value in options.items() if value]:
        raise VariantError(f"{folder}: PEFT's option {unknown[0]}={options[unknown[0]]!r} has no counterpart here")
    return config, tensors


def split(tensors: dict[str, Tensor], name: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Layers' tensors by module path and our name, and the others without PEFT's prefix."""
    ours = {theirs: own for own, theirs in NAMES[name].items()}
    ends = re.compile(rf"(.+)\.({'|'.join(map(re.escape, ours))})")
    layers: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        key = key.removeprefix(_PREFIX)
        if match := ends.fullmatch(key):
            layers.setdefault(match[1], {})[ours[match[2]]] = tensor.flatten() if match[2] == "lora_E" else tensor
        elif key not in ("base_model.vera_A", "base_model.vera_B"):
            others[key] = tensor
    for path, own in layers.items():
        if missing := [theirs for theirs, key in ours.items() if key not in own]:
            raise VariantError(f"the file lacks {_PREFIX}{path}.{missing[0]}")
    return layers, others


def load(model: nn.Module | AdaptedModel, folder: str | os.PathLike, *, name: str = "default") -> AdaptedModel:
    """Put the adapter of a PEFT folder on ``model``, or beside the others of an attached one.

    Raises:
        VariantError: an option or a tensor of the file has no counterpart here, or does not fit the model.
    """
    config, tensors = read(folder)
    base = model.model if isinstance(model, AdaptedModel) else model
    layers, others = split(tensors, kind(config))
    known = dict(base.named_modules())
    if unknown := [path for path in layers if path not in known or not is_linear(known[path])]:
        raise VariantError(f"{folder} adapts {unknown[0]}, which is no linear map of this model")
    order = {path: i for i, path in enumerate(known)}
    sites = [Site(known[path], path, path) for path in sorted(layers, key=order.__getitem__)]
    for path in layers:
        if mask := (config.get("rank_pattern") or {}).get(f"{path}.lora_E"):
            layers[path]["kept"] = torch.tensor(mask, dtype=torch.float32)
    try:
        variant = READ[kind(config)](config, name_target(base, sites, is_stand_in(base)), layers)
    except KeyError as error:
        raise VariantError(f"{Path(folder) / CONFIG} lacks {error}") from error
    if kind(config) == "vera":
        from variants.methods.vera import bank_key

        a, b = read_bank(config, tensors, sites)
        first = {bank_key(site, variant): site.path for site in reversed(sites)}  # of those that share a pair
        for site in sites:
            if site.path in first.values():
                layers[site.path] |= {"bank.A": a[:, : site.in_features], "bank.B": b[: site.out_features]}
    parameters = [key for key, _ in base.named_parameters()]
    if unknown := [key for key in others if key not in parameters]:
        raise VariantError(f"{folder} has {unknown[0]}, which this model does not have")
    flat = {f"{path}.{key}": tensor for path, own in layers.items() for key, tensor in own.items()}
    return install(model, name, variant, flat | others, [key for key in parameters if key in others])
