"""What PEFT's files hold of each method: names of tensors, and the configuration, written and read."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from variants.layer import AdapterLayer
from variants.registry import resolve
from variants.sites import Site
from variants.variant import BaseVariant, VariantError

_LORA = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
NAMES = {
    "lora": _LORA,
    "dora": _LORA | {"magnitude": "lora_magnitude_vector"},
    "adalora": {"lora_A": "lora_A", "lora_B": "lora_B", "lora_E": "lora_E"},
    "vera": {"d": "vera_lambda_d", "b": "vera_lambda_b"},
}
"""A layer's tensors by our name -> by PEFT's, for each variant that PEFT has as well."""


@dataclass
class Map:
    """One of the model's modules as PEFT adapts it: always the whole of it."""

    site: Site
    tensors: dict[str, Tensor]  # as in our file: by our names, pruned triplets left out
    r: int
    alpha: float


# ---- writing -----------------------------------------------------------------------------------------------


def _lora_config(variant: BaseVariant, maps: dict[str, Map]) -> dict[str, Any]:
    r = Counter(m.r for m in maps.values()).most_common(1)[0][0]
    alpha = Counter(m.alpha for m in maps.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "r": r,
        "lora_alpha": _number(alpha),
        "rank_pattern": {path: m.r for path, m in maps.items() if m.r != r},
        "alpha_pattern": {path: _number(m.alpha) for path, m in maps.items() if m.alpha != alpha},
        "lora_dropout": variant.dropout,
        "init_lora_weights": True,
        "use_rslora": variant.rslora,
        "use_dora": variant.name == "dora",
    }


def _vera_config(variant: BaseVariant, maps: dict[str, Map]) -> dict[str, Any]:
    return {
        "peft_type": "VERA",
        "r": next(iter(maps.values())).r,
        "d_initial": variant.d_init,
        "init_weights": True,
        "projection_prng_key": variant.projection_seed,
        "save_projection": True,
        "vera_dropout": 0.0,
    }


def _adalora_config(variant: BaseVariant, maps: dict[str, Map]) -> dict[str, Any]:
    """PEFT counts the schedule in steps of a known total, which is made up here where ours is in shares of it."""
    if odd := [path for path, m in maps.items() if (m.r, m.alpha) != (variant.init_r, variant.alpha)]:
        raise VariantError(f"PEFT's AdaLoRA has one init_r and alpha for all layers, and {odd[0]} has others")
    total = 10_000 * (1 + int(variant.tinit) + int(variant.tfinal))
    steps = {key: round(t * total if t < 1 else t) for key, t in (("tinit", variant.tinit), ("tfinal", variant.tfinal))}
    kept = {f"{path}.lora_E": m.tensors["kept"].bool().tolist() for path, m in maps.items()}
    kept = {key: own + [False] * (variant.init_r - len(own)) for key, own in kept.items()}
    return {
        "peft_type": "ADALORA",
        **{key: getattr(variant, key) for key in ("init_r", "target_r", "deltaT", "beta1", "beta2")},
        "lora_alpha": _number(variant.alpha),
        "lora_dropout": variant.dropout,
        "init_lora_weights": True,
        "orth_reg_weight": variant.orth_weight,
        "rank_pattern": None if all(map(all, kept.values())) else kept,
        "total_step": total,
        **steps,
    }


WRITE = {"lora": _lora_config, "dora": _lora_config, "vera": _vera_config, "adalora": _adalora_config}


def bank(layers: Sequence[AdapterLayer]) -> dict[str, Tensor]:
    """VeRA's frozen pair, of which PEFT has one for all layers.

    PEFT writes the pair, but before 0.21 it did not read it back: it made one from ``projection_prng_key``.
    """
    banks = {(layer.bank.A.shape, layer.bank.B.shape): layer.bank for layer in layers}  # others differ by device alone
    if len(banks) > 1:
        shapes = ", ".join(f"{len(own.B)} x {own.A.shape[1]} (r={len(own.A)})" for own in banks.values())
        raise VariantError(f"PEFT's VeRA has one random pair for all layers, here each shape has its own: {shapes}")
    (only,) = banks.values()
    a, b = _made(layers[0].config.projection_seed, len(only.A), only.A.shape[1], len(only.B))
    if not (torch.equal(a.to(only.A), only.A) and torch.equal(b.to(only.B), only.B)):
        warnings.warn(
            "PEFT before 0.21 ignores VeRA's stored random matrices: load this with 0.21 or later", stacklevel=3
        )
    return {"base_model.vera_A": only.A, "base_model.vera_B": only.B}


def _made(seed: int, r: int, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
    """The pair A (r, in) and B (out, r) that PEFT makes from ``projection_prng_key``."""
    rng = torch.Generator().manual_seed(seed)
    shapes = (r, in_features), (out_features, r)
    a, b = (nn.init.kaiming_uniform_(torch.empty(shape), generator=rng) for shape in shapes)
    return a, b


def _number(x: float) -> float | int:
    return int(x) if x == int(x) else x


# ---- reading -----------------------------------------------------------------------------------------------

NO_EFFECT = {
    *("alpha_pattern", "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out"),
    *("inference_mode", "init_weights", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout"),
    *("megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern"),
    *("revision", "target_modules", "task_type", "use_dora", "use_rslora", "vera_dropout"),
    *("eva_config", "corda_config", "loftq_config", "lora_ga_config", "d_initial", "projection_prng_key"),
    *("save_projection", "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
    "total_step",
}
"""Options that are read here, or that the tensors' names and shapes already tell, or that shape training alone."""
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of ``init_lora_weights`` that leave the base weights as they are."""


def kind(config: dict[str, Any]) -> str:
    """Our name of the variant that a PEFT configuration describes.

    Raises:
        VariantError: there is none.
    """
    name = str(config.get("peft_type")).lower()
    if name not in NAMES:
        raise VariantError(f"PEFT's {name.upper()} has no counterpart here; readable are {', '.join(NAMES)}")
    return "dora" if config.get("use_dora") else name


def _at(pattern: dict[str, Any] | None, path: str, default: Any) -> Any:
    """PEFT's rule: the first key that, as a regular expression, matches the end of the path."""
    return next((v for key, v in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", path)), default)


def _read_lora(config: dict[str, Any], target: str, layers: dict[str, dict[str, Tensor]]) -> BaseVariant:
    r, alpha = config["r"], config["lora_alpha"]
    own = {p: (len(t["lora_A"]), float(_at(config.get("alpha_pattern"), p, alpha))) for p, t in layers.items()}
    return resolve(kind(config))(
        r=r,
        alpha=float(alpha),
        dropout=config.get("lora_dropout", 0.0),
        rslora=bool(config.get("use_rslora")),
        target=target,
        per_layer={path: {"r": k, "alpha": a} for path, (k, a) in own.items() if (k, a) != (r, alpha)},
    )


def _read_vera(config: dict[str, Any], target: str, layers: dict[str, dict[str, Tensor]]) -> BaseVariant:
    seed = config.get("projection_prng_key", 0)
    options = {"r": config["r"], "d_init": config.get("d_initial", 0.1), "projection_seed": seed}
    return resolve("vera")(**options, save_projection=True, target=target)


def read_bank(config: dict[str, Any], tensors: dict[str, Tensor], sites: list[Site]) -> tuple[Tensor, Tensor]:
    """PEFT's A (r, widest input) and B (widest output, r), made from their seed where they are not in the file."""
    if "base_model.vera_A" in tensors:
        return tensors["base_model.vera_A"], tensors["base_model.vera_B"]
    wide, tall = max(site.in_features for site in sites), max(site.out_features for site in sites)
    return _made(config["projection_prng_key"], config["r"], wide, tall)


def _read_adalora(config: dict[str, Any], target: str, layers: dict[str, dict[str, Tensor]]) -> BaseVariant:
    total = config["total_step"]
    return resolve("adalora")(
        **{key: config[key] for key in ("init_r", "target_r", "deltaT", "beta1", "beta2")},
        alpha=float(config["lora_alpha"]),
        dropout=config.get("lora_dropout", 0.0),
        tinit=config["tinit"] / total,
        tfinal=config["tfinal"] / total,
        orth_weight=config["orth_reg_weight"],
        target=target,
    )


READ = {"lora": _read_lora, "dora": _read_lora, "vera": _read_vera, "adalora": _read_adalora}
