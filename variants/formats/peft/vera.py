"""VeRA in PEFT's format."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.formats.peft.common import Map
from variants.layer import AdapterLayer
from variants.registry import resolve
from variants.sites.site import Site
from variants.variant import BaseVariant


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
