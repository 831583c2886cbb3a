"""A file of kohya's as an adapter on one model of a pipeline."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.errors import VariantError
from variants.formats.boundary import read_tensors, refusing
from variants.formats.common import base_of
from variants.formats.diffusers.parts import Learnt, Report, component_of, components_for, installed
from variants.formats.kohya import names
from variants.formats.kohya.weights import KNOWN, learnt
from variants.sites.kinds import kind_of


def load(
    model: nn.Module | AdaptedModel, path: str | os.PathLike, *, name: str = "default", component: str | None = None
) -> AdaptedModel:
    """Put what a file has for a model on it, or beside the adapters of an attached one.

    LoRA and DoRA come as they are; LoHa and LoKr as the LoRA that computes the same.

    Args:
        component: which of a pipeline's models it is; None: as its class tells.

    Raises:
        VariantError: the file has nothing for it, or something that does not fit.
    """
    file, base = Path(path), base_of(model)
    with refusing(f"{file} does not fit this model"):
        tensors = read_tensors(file)
        found = Counter(names.component(key) for key in tensors)
        if "transformer" in components_for(base):  # a file calls any denoiser so
            found["transformer"] += found.pop("unet", 0)
        chosen = component_of(base, file, (key for key in found if key), component)
        places = names.places(base, chosen)
        report, groups = Report(file), {}
        for key, tensor in tensors.items():
            where, _, leaf = key.partition(".")
            own = names.component(key)
            if where in places and leaf in KNOWN:
                groups.setdefault(where, {})[leaf] = tensor
                report.matched.append(key)
            elif own == chosen or not own or (own, chosen) == ("unet", "transformer"):
                report.unmatched.append(key)
            else:
                report.elsewhere[own] += 1
        report.check(base)
        parts: dict[str, Learnt] = {}
        for where, group in groups.items():
            for path_, part in _split(base, where, places[where], learnt(where, group)).items():
                if path_ in parts:
                    raise VariantError(f"{file} has {path_} under two names, one of them {where}")
                parts[path_] = part
        return installed(model, file, parts, name)


def _split(base: nn.Module, where: str, place: names.Place, found: Learnt) -> dict[str, Learnt]:
    """What a file has for maps that it has as one, for each of them: rows of B, and the same A."""
    modules = [base.get_submodule(path) for path in place]
    widths = [kind_of(module).shape(module)[0] for module in modules]
    if sum(widths) != len(found.tensors["lora_B"]):
        of = len(found.tensors["lora_B"])
        raise VariantError(f"{where} has {of} outputs in the file and {sum(widths)} in the model")
    if len(place) == 1:
        return {place[0]: found}

    def rows(key: str, tensor: Tensor, number: int) -> Tensor:
        start = sum(widths[:number])
        return tensor if key == "lora_A" else tensor[start : start + widths[number]]

    return {
        path: found._replace(tensors={key: rows(key, tensor, i) for key, tensor in found.tensors.items()})
        for i, path in enumerate(place)
    }


def components(path: str | os.PathLike, source: str | None) -> list[str]:
    """The pipeline's models that a file has maps of; a file calls any denoiser ``unet``.

    Args:
        source: folder of the pipeline.
    """
    with refusing(f"{path} cannot be read"), safe_open(path, "pt") as file:
        found = dict.fromkeys(filter(None, map(names.component, file.keys())))
    has_transformer = source is not None and (Path(source) / "transformer").is_dir()
    return ["transformer" if name == "unet" and has_transformer else name for name in found]
