"""VeRA in PEFT's format."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.formats.boundary import build
from variants.formats.peft.common import Map
from variants.layer import AdapterLayer
from variants.registry import resolve
from variants.sites.site import Site
from variants.variant import BaseVariant

BANK = ("base_model.vera_A", "base_model.vera_B")
"""Names of the frozen pair."""


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


def bank(layers: Sequence[AdapterLayer]) -> dict[str, Tensor] | None:
    """VeRA's frozen pair, of which PEFT has one for all layers, each with as much of it as its map is wide.

    PEFT writes the pair, but before 0.21 it did not read it back: it made one from ``projection_prng_key``.

    Returns:
        The pair, or None where the maps' pairs are no parts of one.

    Raises:
        VariantError: the layers' ranks differ.
    """
    banks = {(layer.bank.A.shape, layer.bank.B.shape): layer.bank for layer in layers}  # others differ by device alone
    if len({len(pair.A) for pair in banks.values()}) > 1:
        shapes = ", ".join(f"{len(pair.B)} x {pair.A.shape[1]} (r={len(pair.A)})" for pair in banks.values())
        raise VariantError(f"PEFT's VeRA has one random pair for all layers, here each shape has its own: {shapes}")
    A = max((pair.A for pair in banks.values()), key=lambda A: A.shape[1])
    B = max((pair.B for pair in banks.values()), key=len)
    for pair in banks.values():
        if not (torch.equal(pair.A, A[:, : pair.A.shape[1]]) and torch.equal(pair.B, B[: len(pair.B)])):
            return None
    a, b = _made(layers[0].config.projection_seed, len(A), A.shape[1], len(B))
    if not (torch.equal(a.to(A), A) and torch.equal(b.to(B), B)):
        warnings.warn(
            "PEFT before 0.21 ignores VeRA's stored random matrices: load this with 0.21 or later", stacklevel=4
        )
    return dict(zip(BANK, (A, B), strict=True))


def _made(seed: int, r: int, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
    """The pair A (r, in) and B (out, r) that PEFT makes from ``projection_prng_key``."""
    rng = torch.Generator().manual_seed(seed)
    shapes = (r, in_features), (out_features, r)
    a, b = (nn.init.kaiming_uniform_(torch.empty(shape), generator=rng) for shape in shapes)
    return a, b


def _read_vera(folder: Path, config: dict[str, Any], target: str, layers: dict[str, dict[str, Tensor]]) -> BaseVariant:
    options = {"r": config["r"], "save_projection": True, "target": target}
    for ours, theirs in (("d_init", "d_initial"), ("projection_seed", "projection_prng_key")):
        options |= {ours: config[theirs]} if config.get(theirs) is not None else {}
    if odd := [path for path, own in layers.items() if len(own["d"]) != config["r"]]:
        raise VariantError(f"{folder}: r={config['r']}, and {odd[0]} has {len(layers[odd[0]]['d'])}")
    return build(folder, resolve("vera"), options, [tensor for own in layers.values() for tensor in own.values()])


def read_bank(config: dict[str, Any], tensors: dict[str, Tensor], sites: list[Site]) -> tuple[Tensor, Tensor]:
    """PEFT's A (r, widest input) and B (widest output, r), made from their seed where they are not in the file.

    Raises:
        VariantError: the file has one of them alone, or what is no matrix.
    """
    if found := [tensors[key] for key in BANK if key in tensors]:
        if len(found) < 2 or any(tensor.ndim != 2 for tensor in found):
            raise VariantError(f"the file lacks one of {' and '.join(BANK)}, or it is no matrix")
        return found[0], found[1]
    wide, tall = max(site.in_features for site in sites), max(site.out_features for site in sites)
    return _made(config.get("projection_prng_key") or 0, config["r"], wide, tall)
