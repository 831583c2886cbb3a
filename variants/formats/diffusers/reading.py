"""A file of diffusers', of this form or an older one, as an adapter on one model of a pipeline."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any, TypedDict

from safetensors import safe_open
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError
from variants.formats.boundary import check, read_tensors, refusing
from variants.formats.common import base_of
from variants.formats.diffusers.parts import COMPONENTS, Learnt, Report, component_of, installed
from variants.formats.diffusers.writing import FILE, METADATA
from variants.formats.peft.common import flat
from variants.formats.peft.patterns import Patterns
from variants.sites.kinds import is_linear

_ENDS = re.compile(
    r"(?P<path>.+?)(?:"
    r"\.lora_(?P<factor>[AB])\.weight|(?:_lora|\.lora|\.lora_linear_layer)\.(?P<way>down|up)\.weight"
    r"|\.(?P<magnitude>lora_magnitude_vector)(?:\.weight)?|\.(?P<alpha>alpha))"
)
_OLD = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""What files of before PEFT call the maps of a text encoder."""


class _Options(TypedDict, total=False):
    """What is read of the header."""

    r: int
    lora_alpha: float
    alpha_pattern: dict[str, float] | None
    use_rslora: bool | None


def file_of(path: str | os.PathLike) -> Path:
    """The file, where a folder is given."""
    return Path(path) / FILE if Path(path).is_dir() else Path(path)


def header(file: Path) -> dict[str, Any]:
    """The options in a file's header, each behind its component's name; none in older files.

    Raises:
        VariantError: it is damaged.
    """
    with refusing(f"{file} is damaged"), safe_open(file, "pt") as opened:
        options = json.loads((opened.metadata() or {}).get(METADATA, "{}"))
        if not isinstance(options, dict):
            raise VariantError(f"{METADATA} is no object")
        return options


def read(path: str | os.PathLike) -> dict[str, dict[str, Learnt]]:
    """What a file has: component -> path of the map's module, as the file has it -> its tensors.

    A file without components, as of one model alone, has the component "".

    Raises:
        VariantError: it is damaged, or a map lacks a tensor.
    """
    file = file_of(path)
    options, parts = header(file), _split(read_tensors(file))
    found: dict[str, dict[str, Learnt]] = {}
    for component, maps in parts.items():
        prefix = f"{component}." if component else ""
        own = {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}
        check(file, own, _Options)
        alphas = Patterns(f"{file}: alpha_pattern", own.get("alpha_pattern"))
        for path, tensors in maps.items():
            if missing := {"lora_A", "lora_B"} - tensors.keys():
                raise VariantError(f"{file}: {prefix}{path} lacks {min(missing)}")
            r = len(tensors["lora_A"])
            alpha = alphas.at(path.removeprefix("text_model."), own.get("lora_alpha", r))
            alpha = tensors.pop("alpha").item() if "alpha" in tensors else alpha
            kernel = tuple(tensors["lora_A"].shape[1:]) if tensors["lora_A"].ndim > 2 else ()
            flattened = {key: flat(key, tensor) for key, tensor in tensors.items()}
            found.setdefault(component, {})[path] = Learnt(flattened, float(alpha), kernel)
    return found


def _split(tensors: dict[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Component -> path -> our name -> tensor. Keys of no layer stand under themselves, without a tensor's name."""
    parts: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, tensor in tensors.items():
        component, _, rest = key.partition(".")
        if component not in COMPONENTS:
            component, rest = "", key
        match = _ENDS.fullmatch(rest)
        if match is None:
            raise VariantError(f"{key} is nothing that LoRA or DoRA has")
        which = match["factor"] or {"down": "A", "up": "B", None: None}[match["way"]]
        own = f"lora_{which}" if which else "magnitude" if match["magnitude"] else "alpha"
        parts.setdefault(component, {}).setdefault(_path(component, match["path"]), {})[own] = tensor
    return parts


def _path(component: str, path: str) -> str:
    """A map's path in one of the forms that there have been."""
    path = path.replace(".processor", "")
    start, _, leaf = path.rpartition(".")
    if component.startswith("text_encoder") and leaf in _OLD:
        return f"{start}.{_OLD[leaf]}"
    return f"{path}.0" if leaf == "to_out" else path


def load(
    model: nn.Module | AdaptedModel, path: str | os.PathLike, *, name: str = "default", component: str | None = None
) -> AdaptedModel:
    """Put what a file has for a model on it, or beside the adapters of an attached one.

    Args:
        component: which of a pipeline's models it is; None: as its class tells.

    Raises:
        VariantError: the file has nothing for it, or something that does not fit.
    """
    file, base = file_of(path), base_of(model)
    with refusing(f"{file} does not fit this model"):
        parts = read(file)
        chosen = component_of(base, file, parts, component)
        report = Report(file, elsewhere=Counter({k: _keys(v) for k, v in parts.items() if k != chosen}))
        known, learnt = dict(base.named_modules()), {}
        for own, each in parts[chosen].items():
            place = next((p for p in spellings(own) if p in known and is_linear(known[p])), None)
            keys = [f"{chosen}.{own}.{key}" for key in each.tensors]
            (report.unmatched if place is None else report.matched).extend(keys)
            if place is not None:
                learnt[place] = each
        report.check(base)
        scaled = bool(header(file).get(f"{chosen}.use_rslora" if chosen else "use_rslora"))
        return installed(model, file, learnt, name, scaled)


def spellings(path: str) -> tuple[str, ...]:
    """What a map can be called in the model: transformers has dropped a name of CLIP's text encoders."""
    return path, path.removeprefix("text_model."), f"text_model.{path}"


def _keys(maps: dict[str, Learnt]) -> int:
    return sum(len(each.tensors) for each in maps.values())
