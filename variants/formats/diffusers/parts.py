"""What files of diffusion models hold, diffusers' and kohya's alike: LoRA or DoRA at single maps of several models.

Such a file is for a pipeline: it has maps of its UNet or transformer and perhaps of its text encoders, its
*components*. An adapter here is on one of them.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.update import Nearest
from variants.errors import VariantError, shown
from variants.formats.boundary import build
from variants.formats.common import base_of, install, is_stand_in
from variants.formats.peft.as_lora import AsLoRA, lora_maps, way_to_lora
from variants.formats.peft.common import Map
from variants.formats.peft.writing import maps_of_modules
from variants.registry import resolve
from variants.sites.site import Site
from variants.sites.targets import name_target

log = logging.getLogger(__name__)

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""What diffusers' pipelines call their models."""


def components_for(model: nn.Module) -> tuple[str, ...]:
    """What a model can be in a pipeline, the likeliest first."""
    return components_named(type(model).__name__)


def components_named(name: str) -> tuple[str, ...]:
    """What a model of a class can be in a pipeline."""
    if name.startswith("UNet"):
        return ("unet",)
    if name.startswith("CLIPText"):
        return COMPONENTS[2:]
    if name.startswith("T5"):
        return COMPONENTS[:1:-1]
    return ("transformer",) if "Transformer" in name else ()


def component_of(model: nn.Module, where: object, found: Iterable[str], wanted: str | None) -> str:
    """The component of a file that is for a model.

    Args:
        found: components of the file.
        wanted: as a person names it.

    Raises:
        VariantError: none is, or several are and none is named.
    """
    found = list(dict.fromkeys(found))
    known = ", ".join(found) or "nothing"
    if wanted is not None:
        if wanted in found:
            return wanted
        raise VariantError(f"{where} has no {wanted}: it has {known}")
    fits = [name for name in components_for(model) if name in found]
    if len(fits) == 1 or (not components_for(model) and len(found) == 1):
        return (fits or found)[0]
    if fits:
        raise VariantError(f"{where} has {', '.join(fits)}, and a {type(model).__name__} can be each: name one")
    raise VariantError(f"{where} has {known}, and {type(model).__name__} is none of them")


class Learnt(NamedTuple):
    """What a file has for one map.

    Attributes:
        tensors: by the names of LoRA's and DoRA's layers, as matrices and vectors.
        alpha: α; the update is multiplied by α/r.
        kernel: (C, k, k) of a convolution, else ().
    """

    tensors: dict[str, Tensor]
    alpha: float
    kernel: tuple[int, ...] = ()


@dataclass
class Report:
    """Which keys of a file were read.

    Attributes:
        where: the file.
        matched: keys that have a place in the model.
        unmatched: keys of the model's component that have none.
        elsewhere: component -> how many keys of other models there are.
    """

    where: Path
    matched: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    elsewhere: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.unmatched)
        line = f"{self.where}: {len(self.matched)} of {total} keys matched"
        if self.unmatched:
            more = ", ..." if len(self.unmatched) > 3 else ""
            line += f"; not {', '.join(map(shown, self.unmatched[:3]))}{more}"
        return line + "".join(f"; {count} of {name} left" for name, count in self.elsewhere.items())

    def check(self, model: nn.Module) -> None:
        """Say what was matched: a warning where something was not.

        Raises:
            VariantError: nothing was.
        """
        if not self.matched:
            raise VariantError(f"{self}: nothing of the file fits a {type(model).__name__}")
        if self.unmatched:
            warnings.warn(str(self), stacklevel=4)
        else:
            log.info("%s", self)


def installed(
    model: nn.Module | AdaptedModel, where: Path, learnt: Mapping[str, Learnt], name: str, rslora: bool = False
) -> AdaptedModel:
    """An adapter, LoRA or DoRA, of what a file has for each map.

    Args:
        learnt: by the path of the map's module.
        name: of the new adapter.

    Raises:
        VariantError: some maps have a magnitude and others none, or a tensor does not fit.
    """
    base = base_of(model)
    kinds = {"dora" if "magnitude" in each.tensors else "lora" for each in learnt.values()}
    if len(kinds) > 1:
        raise VariantError(f"{where} is DoRA at some maps and LoRA at others, which no one method is")
    known = dict(base.named_modules())
    order = {path: number for number, path in enumerate(known)}
    sites = [Site(known[path], path, path) for path in sorted(learnt, key=order.__getitem__)]
    sizes = {path: (len(each.tensors["lora_A"]), each.alpha) for path, each in learnt.items()}
    r, alpha = Counter(sizes.values()).most_common(1)[0][0]
    options = {
        "r": r,
        "alpha": alpha,
        "rslora": rslora,
        "target": name_target(base, sites, is_stand_in(base)),
        "per_layer": {path: {"r": k, "alpha": a} for path, (k, a) in sizes.items() if (k, a) != (r, alpha)},
    }
    tensors = {f"{path}.{key}": tensor for path, each in learnt.items() for key, tensor in each.tensors.items()}
    variant = build(where, resolve(kinds.pop()), options, tensors.values())
    return install(model, name, variant, tensors, ())


class Parts(NamedTuple):
    """What is written of one adapter.

    Attributes:
        method: lora or dora.
        maps: of each module.
        rslora: the maps' α is divided by √r.
        left_out: of a LoRA near another method, what it leaves out at each map.
    """

    method: str
    maps: dict[str, Map]
    rslora: bool
    left_out: dict[str, Nearest]

    def scaled_alpha(self, path: str) -> float:
        """α with which a map's update is multiplied by α/r."""
        found = self.maps[path]
        return found.alpha * math.sqrt(found.r) if self.rslora else found.alpha


def parts_of(adapted: AdaptedModel, as_lora: bool | AsLoRA, form: str) -> Parts:
    """The active adapter's maps, as a file of a diffusion model can hold them.

    Args:
        form: the format's name, for messages.

    Raises:
        VariantError: it cannot, by the method or by what is trained beside its layers.
    """
    name = adapted.variant.name
    if adapted.adapter.in_place:
        raise VariantError(f"{form} files hold no {adapted.adapter.in_place[0]}, which {name} trains in place")
    if as_lora:
        maps, left_out = lora_maps(adapted, as_lora if isinstance(as_lora, AsLoRA) else AsLoRA())
        return Parts("lora", maps, False, left_out)
    own = name in ("lora", "dora") and not adapted.variant.subtract_initial and adapted.layers
    if not own or any(type(layer) is not resolve(name).layer for layer in adapted.layers):
        raise VariantError(f"{form} files have no form for {name}, only for lora and dora{way_to_lora(adapted)}")
    return Parts(name, maps_of_modules(adapted), adapted.variant.rslora, {})
