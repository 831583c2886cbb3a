"""The active adapter as a folder of PEFT's."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from variants import new_tokens
from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.update import Nearest, relative_error
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.common import by_module, copies, is_stand_in, tied_names
from variants.formats.peft.as_lora import AsLoRA, lora_maps, way_to_lora
from variants.formats.peft.common import CONFIG, NAMES, PREFIX, TENSORS, Map, shaped
from variants.formats.peft.forms import FORMS, prepared
from variants.formats.peft.lora import one_scaling
from variants.formats.peft.methods import LORA, WRITE
from variants.formats.peft.prefix import WITHOUT, prefix_config
from variants.formats.peft.tasks import HEADS, task_of
from variants.formats.peft.vera import bank
from variants.layer import AdapterLayer
from variants.methods.lora import LoRA
from variants.registry import resolve
from variants.variant import BaseVariant

NEAREST = "nearest.json"
"""How near a LoRA that was made of another method comes to it."""


@dataclass
class Written:
    """A folder of PEFT's before it is written.

    Attributes:
        method: PEFT's.
        config: of ``adapter_config.json``; at first the method's own part.
        maps: what is adapted.
        tensors: of ``adapter_model.safetensors``; at first those that all maps share.
        left_out: what a LoRA near the adapter leaves out at each map, where it was made so.
        without: options that PEFT's other configurations have and this one lacks.
    """

    method: str
    config: dict[str, Any]
    maps: dict[str, Map]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, Nearest] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def errors(self) -> dict[str, Any]:
        """What ``nearest.json`` says: the relative errors (Frobenius), of all maps together and of each."""
        each = {
            path: {"r": len(near.A), "relative_error": relative_error([near])} for path, near in self.left_out.items()
        }
        return {"relative_error": relative_error(self.left_out.values()), "maps": each}

    def write(self, folder: Path) -> Path:
        """Write the files, each whole or not at all."""
        write_atomic(folder / TENSORS, serialise(copies(self.tensors), metadata={"format": "pt"}))
        if self.left_out:
            write_atomic(folder / NEAREST, _readable(self.errors()))
        else:
            (folder / NEAREST).unlink(missing_ok=True)
        write_atomic(folder / CONFIG, _readable(self.config))
        return folder


def _readable(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def save(adapted: AdaptedModel, folder: str | os.PathLike, as_lora: bool | AsLoRA = False) -> Path:
    """Write the active adapter as PEFT would, head included; ``PeftModel.from_pretrained`` reads it.

    LoRA on slices of a fused map becomes one LoRA of the whole map, of the ranks' sum, which computes the same. VeRA
    over maps of several shapes, which have a random pair each, becomes LoRA, with a warning.

    Args:
        as_lora: write any method as LoRA: one whose layers declare a low-rank update computes the same; of any other,
            and of a lower rank, the nearest is made, as `AsLoRA` says, and ``nearest.json`` holds its errors.

    Raises:
        VariantError: PEFT has no form for the variant, for slices of it, or for what it trains beside its layers.
    """
    return prepare(adapted, as_lora).write(Path(folder))


def prepare(adapted: AdaptedModel, as_lora: bool | AsLoRA = False) -> Written:
    """What `save` writes; it says what is raised."""
    if experts := next((layer.site.path for layer in adapted.layers if not layer.site.sees_batch), None):
        raise VariantError(
            f"PEFT has no adapter of a single expert, as {experts} is: merge it (python -m variants.merge)"
        )
    new = new_tokens.modules_of(adapted.model)
    rows = {f"{path}.new_tokens.rows" for path in new}
    heads = _whole_modules(adapted.model, [name for name in adapted.adapter.in_place if name not in rows])
    if as_lora or _is_lora(adapted):
        written = _as_lora(adapted, as_lora if isinstance(as_lora, AsLoRA) else AsLoRA())
    else:
        try:
            written = _in_kind(adapted)
        except VariantError as error:
            raise VariantError(f"{error}{way_to_lora(adapted)}") from error
    written.tensors |= {
        f"{PREFIX}{path}.{theirs}": shaped(each.site, own, each.tensors[own])
        for path, each in written.maps.items()
        for own, theirs in NAMES.get(written.method, {}).items()
    }
    for head in heads:
        state = adapted.model.get_submodule(head).state_dict()
        written.tensors |= {f"{PREFIX}{head}.{key}": tensor for key, tensor in state.items()}
    written.config = _config(adapted.model, written.maps, heads) | written.config
    for option in written.without:
        del written.config[option]
    if new:
        written.tensors |= {
            f"{PREFIX}{path}.token_adapter.trainable_tokens_delta": own.rows for path, own in new.items()
        }
        ids = {path.rpartition(".")[2]: list(range(own.ids.start, own.ids.stop)) for path, own in new.items()}
        written.config["trainable_token_indices"] = ids
    return written


def _of(name: str, variant: BaseVariant, maps: dict[str, Map], **more: Any) -> Written:
    if name in ("lora", "dora"):
        maps = one_scaling(maps, variant.rslora)
    return Written(name, WRITE[name](variant, maps), maps, **more)


def _is_lora(adapted: AdaptedModel) -> bool:
    """The adapter is of a method that PEFT has as LoRA."""
    name = adapted.variant.name
    return name in LORA and all(type(layer) is resolve(name).layer for layer in adapted.layers)


def _as_lora(adapted: AdaptedModel, how: AsLoRA) -> Written:
    maps, left_out = lora_maps(adapted, how)
    return _of("lora", LoRA(), maps, left_out=left_out if how.approximates else {})


def _in_kind(adapted: AdaptedModel) -> Written:
    variant, name = adapted.variant, adapted.variant.name
    if type(variant) is resolve("prefix_tuning"):
        config, tensors = prefix_config(adapted)
        return Written(name, config, {}, tensors=tensors, without=WITHOUT)
    own = name in (*NAMES, *FORMS) and not variant.subtract_initial and adapted.layers
    if not own or any(type(layer) is not resolve(name).layer for layer in adapted.layers):
        raise VariantError(f"PEFT has no form for {name}: it can be written for {', '.join((*NAMES, *FORMS))}")
    if name in FORMS:
        config, layers, shared = prepared(name, adapted)
        found = {f"{PREFIX}{path}.{theirs}": t for path, own in layers.items() for theirs, t in own.items()}
        maps = {layer.site.module_path: Map(layer.site, {}, 0, 1.0) for layer in adapted.layers}
        return Written(name, config, maps, tensors=shared | found, without=FORMS[name].without)
    maps = maps_of_modules(adapted)
    if name not in ("lora", "dora") and (conv := next((p for p, m in maps.items() if m.site.window), None)):
        raise VariantError(f"PEFT has no {name} of convolutions, as {conv} is")
    if name != "vera":
        return _of(name, variant, maps)
    if (shared := bank(adapted.layers)) is not None:
        return _of(name, variant, maps, tensors=shared)
    warnings.warn(
        "PEFT's VeRA has one random pair for all maps, and here each shape has its own: written as LoRA, which "
        "computes the same and takes more room",
        stacklevel=3,
    )
    return _as_lora(adapted, AsLoRA())


def maps_of_modules(adapted: AdaptedModel) -> dict[str, Map]:
    """The adapter's layers by module, the slices of one module fused."""
    name, maps = adapted.variant.name, {}
    for path, layers in by_module(adapted.layers).items():
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
    """The outermost modules whose parameters are exactly ``names``: PEFT saves whole modules only.

    Of modules that share a parameter (an embedding and the output map) each is named: PEFT copies what it saves, and
    a module left out would keep the base's.
    """
    tied = tied_names(model)
    wanted = {each for name in names for each in tied.get(name, [name])}
    inside = {
        path: {f"{path}.{name}" for name, _ in module.named_parameters(remove_duplicate=False)}
        for path, module in model.named_modules()
    }
    modules: list[str] = []
    for path, own in inside.items():
        if path and own and own <= wanted and not any(path.startswith(f"{m}.") for m in modules):
            modules.append(path)
    if left := wanted - set().union(*(inside[m] for m in modules)):
        raise VariantError(f"PEFT saves whole modules, and only a part of the one of {sorted(left)[0]} is trained")
    return modules


def _config(model: nn.Module, maps: dict[str, Map], heads: list[str]) -> dict[str, Any]:
    """What a configuration of any method says."""
    task = task_of(model)
    if task in HEADS:
        heads = list(dict.fromkeys([*heads, *HEADS[task]])) if heads else []
    tied = {name for name in tied_names(model) if name.rpartition(".")[0] in heads}
    return {
        "auto_mapping": None,
        "base_model_name_or_path": getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "bias": "none",
        "fan_in_fan_out": any(each.site.is_transposed for each in maps.values()),
        "inference_mode": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "modules_to_save": heads or None,
        "revision": None,
        "target_modules": target_modules(model, list(maps), heads),
        "task_type": task if heads or task not in HEADS else None,
        **({"ensure_weight_tying": True} if tied else {}),  # PEFT that goes on training keeps them one
    }


def target_modules(model: nn.Module, paths: list[str], heads: list[str]) -> list[str]:
    """The last names of the maps where PEFT finds exactly them by these, else their full names."""
    leaves = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    found = {
        path
        for path, _ in model.named_modules()
        if path.rpartition(".")[2] in leaves and not any(path == h or path.startswith(f"{h}.") for h in heads)
    }
    return paths if is_stand_in(model) or found != set(paths) else leaves
