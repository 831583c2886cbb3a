"""The blocks of a transformer, the place where each one ends, and the backbone as one module."""

from __future__ import annotations

import re

from torch import nn

from variants.errors import VariantError
from variants.sites.architectures import architecture_of, backbone_of
from variants.sites.ranges import block_number, chosen_blocks
from variants.sites.site import ModuleSite, Site
from variants.sites.targets import find_sites


def blocks(model: nn.Module) -> dict[str, list[Site]]:
    """Path of each block -> the linear maps in it, in the model's order.

    Raises:
        VariantError: no module's name has a number, or the blocks are no one row, as a UNet's.
    """
    if apart := architecture_of(model).apart:
        raise VariantError(
            f"{type(model).__name__} has {', '.join(apart)} and no one row of blocks, which this method is for: take "
            "one of linear maps, such as lora or adapter_h"
        )
    found: dict[str, list[Site]] = {}
    for site in find_sites(model, "all-linear"):
        if block := re.match(r"(?:.*?\.)?\d+(?=\.|$)", site.module_path):
            found.setdefault(block[0], []).append(site)
    if not found:
        raise VariantError(f"{type(model).__name__} has no numbered blocks")
    return found


def block_outputs(model: nn.Module, layers: str = "") -> list[ModuleSite]:
    """Where each block has computed its hidden states: its last LayerNorm, or the block itself where none comes last.

    Args:
        layers: such as ``0-5,11``, the numbers of the blocks; empty means all.
    """
    maps = blocks(model)
    ends = {path: path for path in maps}
    if norm := architecture_of(model).last_norm:
        for path, _ in model.named_modules():
            if re.search(rf"{norm}$", path):
                ends[next(block for block in ends if path.startswith(f"{block}."))] = path
    wanted = chosen_blocks(layers, map(block_number, ends), type(model).__name__)
    return [
        ModuleSite(model.get_submodule(end), end, end, like=maps[block][-1], ends_with_norm=end != block)
        for block, end in ends.items()
        if block_number(block) in wanted
    ]


def block_inputs(model: nn.Module) -> list[ModuleSite]:
    """The blocks themselves."""
    return [ModuleSite(model.get_submodule(path), path, path, like=maps[-1]) for path, maps in blocks(model).items()]


def layer_norms(model: nn.Module, layers: str = "") -> list[str]:
    """Names of the parameters of the LayerNorms inside the blocks.

    Raises:
        VariantError: there are none.
    """
    paths, own = list(blocks(model)), architecture_of(model).norms
    wanted = chosen_blocks(layers, map(block_number, paths), type(model).__name__)
    inside = tuple(f"{path}." for path in paths if block_number(path) in wanted)
    found = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if path.startswith(inside)
        and (isinstance(module, nn.LayerNorm) or (own and re.search(rf"(?:^|\.)(?:{own})$", path)))
        for name, _ in module.named_parameters(recurse=False)
    ]
    if not found:
        raise VariantError(f"the blocks of {type(model).__name__} have no LayerNorm to train")
    return found


def sequence(model: nn.Module) -> ModuleSite:
    """The part that every head calls with a batch of sequences, and that puts out their hidden states."""
    backbone = backbone_of(model)
    if decoder := architecture_of(model).decoder:
        backbone = getattr(backbone, decoder, backbone)
    name = next(name for name, module in model.named_modules() if module is backbone)
    return ModuleSite(backbone, name or "backbone", name, like=next(reversed(blocks(model).values()))[-1])
