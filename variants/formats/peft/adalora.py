"""AdaLoRA in PEFT's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from variants.errors import VariantError
from variants.formats.boundary import build
from variants.formats.peft.common import Map, number
from variants.registry import resolve
from variants.variant import BaseVariant


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
        "lora_alpha": number(variant.alpha),
        "lora_dropout": variant.dropout,
        "init_lora_weights": True,
        "orth_reg_weight": variant.orth_weight,
        "rank_pattern": None if all(map(all, kept.values())) else kept,
        "total_step": total,
        **steps,
    }


def _read_adalora(
    folder: Path, config: dict[str, Any], target: str, layers: dict[str, dict[str, Tensor]]
) -> BaseVariant:
    given = {key: value for key, value in config.items() if value is not None}
    options = {key: given[key] for key in ("init_r", "target_r", "deltaT", "beta1", "beta2") if key in given}
    options |= {key: given[key] / given["total_step"] for key in ("tinit", "tfinal") if key in given}
    options |= {"alpha": float(given["lora_alpha"]), "dropout": given.get("lora_dropout", 0.0), "target": target}
    options |= {"orth_weight": given["orth_reg_weight"]} if "orth_reg_weight" in given else {}
    tensors = [tensor for own in layers.values() for tensor in own.values()]
    return build(folder, resolve("adalora"), options, tensors)
