"""Adapters as kohya's tools, and those that read its files, load them: one safetensors file with α beside each map."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.atomic import write_atomic
from variants.errors import VariantError
from variants.formats.diffusers.parts import COMPONENTS, Parts, parts_of
from variants.formats.kohya import names
from variants.formats.kohya.weights import LOHA_NAMES
from variants.formats.peft.as_lora import AsLoRA
from variants.formats.peft.common import Map, number

_BASES = {768: "sd_v1", 1024: "sd_v2", 2048: "sdxl_base_v1-0"}
"""sd-scripts' name of a base model, by the width of the text that its UNet reads."""


def save(adapters: Mapping[str, AdaptedModel], file: str | os.PathLike, as_lora: bool | AsLoRA = False) -> Path:
    """Write the active adapters of a pipeline's models.

    Args:
        adapters: by component: unet, transformer, text_encoder, text_encoder_2, text_encoder_3.
        as_lora: write other methods as LoRA, as `variants.formats.peft.save` does.

    Returns:
        The file.

    Raises:
        VariantError: kohya's files have no form for a method, for what it trains beside its layers, or for the model.
    """
    tensors: dict[str, Tensor] = {}
    every: list[tuple[int, float, bool]] = []
    methods = set()
    for component, adapted in adapters.items():
        if component not in COMPONENTS:
            raise VariantError(f"{component!r} is no model of a pipeline: choose {', '.join(COMPONENTS)}")
        parts = parts_of(adapted, as_lora, "kohya's", ("lora", "dora", "loha"))
        methods.add(parts.method)
        left = dict(parts.maps)
        for name, place in names.written(adapted.model, component).items():
            if component == "text_encoder" and adapters.keys() <= {"unet", "text_encoder"}:
                name = name.replace("lora_te1_", "lora_te_", 1)
            if own := [path for path in place if left.pop(path, None)]:
                found, alpha = _together(adapted.model, place, own, parts)
                tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
                every.append((parts.maps[own[0]].r, alpha, parts.maps[own[0]].site.window is not None))
        if left:
            raise VariantError(f"kohya's files have no name for {next(iter(left))}")
    content = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()
    }
    header = _header(adapters, every, methods)
    write_atomic(file, serialise(content, metadata=header | _hashes(serialise(content, metadata=header))))
    return Path(file)


def _together(
    model: nn.Module, place: names.Place, own: Sequence[str], parts: Parts
) -> tuple[dict[str, Tensor], float]:
    """The tensors of maps that the file has as one, and their α.

    Those that read one A keep it; else the rank is the sum of theirs, and what others' scales differ by is in B.
    """
    maps = {path: parts.maps[path] for path in own}
    first = maps[own[0]]
    alpha = parts.scaled_alpha(own[0])
    if len(place) == 1:
        return _tensors(first, first.tensors, alpha), alpha
    if parts.method != "lora":
        raise VariantError(f"kohya's files have {', '.join(place)} as one map: {parts.method} cannot be so")
    widths = [model.get_submodule(path).weight.shape[0] for path in place]
    factors = [(maps[path].tensors["lora_A"], maps[path].tensors["lora_B"]) if path in maps else None for path in place]
    known = [pair for pair in factors if pair is not None]
    scales = [parts.scaled_alpha(path) / maps[path].r for path in own]
    if len(set(scales)) == 1 and all(torch.equal(a, known[0][0]) for a, _ in known):
        zeros = [known[0][1].new_zeros(width, first.r) for width in widths]
        b = torch.cat([zero if pair is None else pair[1] for pair, zero in zip(factors, zeros, strict=True)])
        return _tensors(first, {"lora_A": known[0][0], "lora_B": b}, alpha), alpha
    ratios = dict(zip(own, (scale / scales[0] for scale in scales), strict=True))
    blocks = [
        known[0][1].new_zeros(width, 0) if pair is None else pair[1] * ratios[path]
        for path, pair, width in zip(place, factors, widths, strict=True)
    ]
    r = sum(block.shape[1] for block in blocks)
    tensors = {"lora_A": torch.cat([a for a, _ in known]), "lora_B": torch.block_diag(*blocks)}
    return _tensors(first, tensors, scales[0] * r), scales[0] * r


def _tensors(found: Map, own: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    window = found.site.window
    if "A1" in own:
        return {key: own[name] for name, key in LOHA_NAMES.items()} | {"alpha": torch.tensor(alpha)}
    a, b = own["lora_A"], own["lora_B"]
    tensors = {
        "lora_down.weight": a if window is None else window.kernels(a),
        "lora_up.weight": b if window is None else window.pixels(b),
        "alpha": torch.tensor(alpha, dtype=torch.float32),
    }
    if "magnitude" in own:
        column = own["magnitude"][:, None]
        tensors["dora_scale"] = column if window is None else window.pixels(column)
    return tensors


def _header(
    adapters: Mapping[str, AdaptedModel], every: Sequence[tuple[int, float, bool]], methods: set[str]
) -> dict[str, str]:
    """What sd-scripts says of a file: the module that computes it, rank and α, and the base model."""

    def commonest(sizes: Sequence[tuple[int, float, bool]]) -> tuple[int, float]:
        return Counter((r, alpha) for r, alpha, _ in sizes).most_common(1)[0][0]

    convolutions = [size for size in every if size[2]]
    r, alpha = commonest([size for size in every if not size[2]] or every)
    more: dict[str, str] = {"algo": "lora", "dora_wd": "True"} if "dora" in methods else {}
    more |= {"algo": "loha"} if "loha" in methods else {}
    if convolutions:
        conv = commonest(convolutions)
        more |= {"conv_dim": str(conv[0]), "conv_alpha": str(number(conv[1]))}
    module = "networks.lora" if methods == {"lora"} else "lycoris.kohya"
    kinds = {type(adapted.model).__name__ for adapted in adapters.values()}
    if any(kind.startswith("Flux") for kind in kinds):
        module, base = "networks.lora_flux", "flux1"
    elif any(kind.startswith("SD3") for kind in kinds):
        module, base = "networks.lora_sd3", ""  # whose releases the maps do not tell apart
    else:
        unet = adapters.get("unet")
        base = _BASES.get(getattr(getattr(unet and unet.model, "config", None), "cross_attention_dim", None), "")
    header = {
        "ss_network_module": module,
        "ss_network_dim": str(r),
        "ss_network_alpha": str(number(alpha)),
        "ss_network_args": json.dumps(more),
    }
    return header | ({"ss_base_model_version": base} if base else {})


def _hashes(content: bytes) -> dict[str, str]:
    """The hashes by which web UIs know a file: of its tensors, and of a piece of it."""
    begin = 8 + int.from_bytes(content[:8], "little")
    return {
        "sshs_model_hash": hashlib.sha256(content[begin:]).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
    }
