"""LoRA and DoRA in PEFT's format."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from variants.errors import VariantError, shown
from variants.formats.boundary import build
from variants.formats.peft.common import CONFIG, Map, number
from variants.formats.peft.patterns import Patterns
from variants.registry import resolve
from variants.variant import BaseVariant

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights`` that leave the base weights as they are."""
STARTS = {"pissa": "pissa", "olora": "olora"}
"""Those by which a first update is taken off each base weight, which decides it alone,
and the method here that does the same: of the trained A and B in the file, and of the base."""


def one_scaling(maps: dict[str, Map], rslora: bool) -> dict[str, Map]:
    """The maps with the scaling that most of them have, alpha/r or alpha/√r.

    PEFT scales each map by its own alpha and rank; readers that serve many adapters at once (vLLM) know the
    configuration's alone. What a map's scaling differs by is put into its B, so that both compute the same.
    """

    def root(r: int) -> float:
        return math.sqrt(r) if rslora else r

    scalings = {path: m.alpha / root(m.r) for path, m in maps.items()}
    scaling = Counter(scalings.values()).most_common(1)[0][0]
    found = {}
    for path, m in maps.items():
        ratio = scalings[path] / scaling if scalings[path] != scaling else 1.0
        tensors = m.tensors if ratio == 1.0 else m.tensors | {"lora_B": m.tensors["lora_B"] * ratio}
        found[path] = Map(m.site, tensors, m.r, scaling * root(m.r))
    return found


def _lora_config(variant: BaseVariant, maps: dict[str, Map]) -> dict[str, Any]:
    """The configuration of maps that have one scaling: the largest rank, and the alpha that scales so with it."""
    largest = max(maps.values(), key=lambda m: m.r)
    r, alpha = largest.r, largest.alpha
    other = {path: m for path, m in maps.items() if m.r != r}

    def key(path: str) -> str:  # PEFT takes a key for the end of a name
        return f"^{path}" if any(p.endswith(f".{path}") for p in maps) else path

    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": number(alpha),
        "rank_pattern": {key(path): m.r for path, m in other.items()},
        "alpha_pattern": {key(path): number(m.alpha) for path, m in other.items()},
        "lora_dropout": variant.dropout,
        "init_lora_weights": True,
        "use_rslora": variant.rslora,
        "use_dora": variant.name == "dora",
    }


def _read_lora(folder: Path, config: dict[str, Any], target: str, layers: dict[str, dict[str, Tensor]]) -> BaseVariant:
    r, alpha = config["r"], config["lora_alpha"]
    alphas = Patterns(f"{folder / CONFIG}: alpha_pattern", config.get("alpha_pattern"))
    own = {path: (len(t["lora_A"]), float(alphas.at(path, alpha))) for path, t in layers.items()}
    rslora = bool(config.get("use_rslora"))
    method = "dora" if config.get("use_dora") else STARTS.get(config.get("init_lora_weights"), "lora")
    more: dict[str, Any] = {"rslora": rslora}
    if method in STARTS.values():  # which have no such option: alpha/√r is (alpha·√r)/r
        more = {}
        alpha *= math.sqrt(r) if rslora else 1
        own = {path: (k, a * math.sqrt(k) if rslora else a) for path, (k, a) in own.items()}
    options = {
        "r": r,
        "alpha": float(alpha),
        "dropout": config.get("lora_dropout", 0.0),
        "target": target,
        "per_layer": {path: {"r": k, "alpha": a} for path, (k, a) in own.items() if (k, a) != (r, alpha)},
    }
    tensors = [tensor for own in layers.values() for tensor in own.values()]
    return build(folder, resolve(method), options | more, tensors)


def check_start(folder: Path, config: dict[str, Any]) -> None:
    """Raise VariantError where a file's ``init_lora_weights`` has changed the base weights by more than the file and
    the base tell."""
    start, dora = config.get("init_lora_weights"), config.get("use_dora")
    if any(start is each or start == each for each in PLAIN_STARTS) or (start in [*STARTS] and not dora):
        return
    found = f"{folder}: init_lora_weights={shown(start)}"
    if str(start).startswith(("pissa_niter_", "corda", "lora_ga")) and not dora:
        raise VariantError(
            f"{found} took an update off the base weights that the file does not hold: save it in PEFT with "
            "path_initial_model_for_weight_conversion, as a plain LoRA"
        )
    with_dora = " with use_dora" if dora else ""
    raise VariantError(f"{found}{with_dora} changes the base weights, as no method here does: merge it in PEFT")
