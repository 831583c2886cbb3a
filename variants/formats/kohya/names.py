"""Names of maps in kohya's files: the path with underscores, in diffusers' words or those of the model's first code.

SDXL's UNet and SD3 go by the names of Stability's code, Flux by those of Black Forest Labs'; in the last two one map
computes what several do in diffusers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import nn

from variants.errors import VariantError
from variants.sites.kinds import is_linear

PREFIXES = {
    "unet": ("lora_unet",),
    "transformer": ("lora_unet", "lora_transformer"),
    "text_encoder": ("lora_te1", "lora_te"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
}
"""What stands before the names of a pipeline's models; ``lora_te`` before those of a text encoder that is alone."""
Place = tuple[str, ...]
"""Paths of the maps whose outputs are those of one of the file's maps, in their order."""


def component(key: str) -> str:
    """The pipeline's model that a key is of, "" where it is none. The denoiser of any is called ``unet``."""
    first = key.partition(".")[0]
    found = (name for name, prefixes in PREFIXES.items() if first.startswith(tuple(f"{p}_" for p in prefixes)))
    return next(found, "")


def prefixes(model: nn.Module, name: str) -> tuple[str, ...]:
    """What stands before the names of a model that is the component ``name``: T5 has a number of its own."""
    return PREFIXES["text_encoder_3" if type(model).__name__.startswith("T5") else name]


def places(model: nn.Module, name: str) -> dict[str, Place]:
    """Every name that a map of a model, or several together, can have in a file."""
    paths = [path for path, module in model.named_modules() if is_linear(module)]
    found: dict[str, Place] = {}
    for path in paths:
        for words in (path, *_other_words(model, path)):
            found |= {f"{prefix}_{words.replace('.', '_')}": (path,) for prefix in prefixes(model, name)}
    for words, place in joined(model, paths):
        found |= {f"{prefix}_{words.replace('.', '_')}": place for prefix in prefixes(model, name)}
    return found


def written(model: nn.Module, name: str) -> dict[str, Place]:
    """The name under which each map is written, and maps that are written as one.

    Raises:
        VariantError: kohya's tools have names of their own for the model's maps that are not known here.
    """
    prefix = prefixes(model, name)[0]
    paths = [path for path, module in model.named_modules() if is_linear(module)]
    kind = type(model).__name__
    if known := dict(joined(model, paths)):
        return {f"{prefix}_{words.replace('.', '_')}": place for words, place in known.items()}
    if name == "transformer":
        raise VariantError(f"kohya's tools have no names of {kind}'s maps that are known here: write diffusers' form")
    inside = "text_model." if kind.startswith("CLIPText") else ""
    full = {path: path if path.startswith(inside) or path == "text_projection" else f"{inside}{path}" for path in paths}
    return {f"{prefix}_{words.replace('.', '_')}": (path,) for path, words in full.items()}


def _other_words(model: nn.Module, path: str) -> Iterator[str]:
    if type(model).__name__.startswith("CLIPText") and not path.startswith("text_model."):
        yield f"text_model.{path}"
    if type(model).__name__.startswith("UNet") and (words := _stability(path, model)):
        yield words


# ---- Stability's words for the UNet's maps ------------------------------------------------------------------------

_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _stability(path: str, model: nn.Module) -> str:
    """A map's name where all blocks of a UNet are numbered in one row; "" where it has none."""
    layers = getattr(model.config, "layers_per_block", None)  # ResNets of each block on the way down
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    if middle := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", path):
        number = 2 * int(middle[2]) + (middle[1] == "attentions")
        return f"middle_block.{number}.{_inside(middle[1], middle[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", path)
    if not match or not isinstance(layers, int):
        return ""
    way, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{1 + block * (layers + 1) + layers}.0.op" if rest == "conv" else ""
    if kind == "upsamplers":
        behind = 1 + bool(getattr(model.up_blocks[block], "attentions", None))
        return f"output_blocks.{block * (layers + 1) + layers}.{behind}.{rest}"
    place = number + block * (layers + 1) + (way == "down")
    row = "input_blocks" if way == "down" else "output_blocks"
    return f"{row}.{place}.{int(kind == 'attentions')}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest


# ---- maps that are one in the model's first code: Black Forest Labs' words for Flux's, Stability's for SD3's ------

_DOUBLE = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
}
_SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
}


_JOINT = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn.proj": ("attn.to_out.0",),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "x_block.attn2.proj": ("attn2.to_out.0",),
    "x_block.mlp.fc1": ("ff.net.0.proj",),
    "x_block.mlp.fc2": ("ff.net.2",),
    "x_block.adaLN_modulation.1": ("norm1.linear",),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "context_block.attn.proj": ("attn.to_add_out",),
    "context_block.mlp.fc1": ("ff_context.net.0.proj",),
    "context_block.mlp.fc2": ("ff_context.net.2",),
    "context_block.adaLN_modulation.1": ("norm1_context.linear",),
}
_BLOCKS = {
    "Flux": (
        ("transformer_blocks", "double_blocks", _DOUBLE),
        ("single_transformer_blocks", "single_blocks", _SINGLE),
    ),
    "SD3": (("transformer_blocks", "joint_blocks", _JOINT),),
}
"""diffusers' and the first code's name of each row of blocks, and the maps in them, by the start of a model's class."""


def joined(model: nn.Module, paths: list[str]) -> Iterator[tuple[str, Place]]:
    """The maps of the blocks of Flux and SD3, by name; none of another model."""
    known = set(paths)
    kind = next((kind for kind in _BLOCKS if type(model).__name__.startswith(kind)), "")
    for ours, theirs, maps in _BLOCKS.get(kind, ()):
        numbers = dict.fromkeys(path.split(".")[1] for path in paths if path.startswith(f"{ours}."))
        for number in numbers:
            last = kind == "SD3" and f"{ours}.{number}.ff_context.net.2" not in known
            for words, parts in maps.items():
                place = tuple(f"{ours}.{number}.{part}" for part in parts)
                if known.issuperset(place) and not (last and parts == ("norm1_context.linear",)):  # swapped halves
                    yield f"{theirs}.{number}.{words}", place
