"""LoRA and DoRA in PEFT's format."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

from variants.formats.peft.common import Map, _at, _number, kind
from variants.registry import resolve
from variants.variant import BaseVariant

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
