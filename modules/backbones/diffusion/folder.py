"""Model folders in diffusers' layout: model_index.json, and a folder for each part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modules.documents import read_json
from variants.errors import UserError

INDEX = "model_index.json"
DENOISERS = ("transformer", "unet")
"""Names of the part that is adapted."""
HUB_FILES = (INDEX, "words.json", *(f"*/{name}" for name in (
    "config.json", "*.safetensors", "*.safetensors.index.json", "scheduler_config.json", "tokenizer*", "vocab.*",
    "merges.txt", "special_tokens_map.json", "spiece.model",
)))  # fmt: skip
"""What is fetched from the Hub; half-precision copies are left out (`HUB_LEFT_OUT`)."""
HUB_LEFT_OUT = ("*.fp16.*", "*.non_ema.*", "*.bf16.*")


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds an image model in diffusers' layout."""
    return (folder / INDEX).is_file()


def parts(folder: Path) -> dict[str, str]:
    """The pipeline's parts, name -> class or "" where it has none, and under ``_class_name`` the pipeline's own.

    Raises:
        UserError: it is no pipeline's folder, or its index is damaged.
    """
    if not is_pipeline(folder):
        raise UserError(f"{folder} has no {INDEX}: name an image model as diffusers' `save_pretrained` writes it")
    content = read_json(folder / INDEX)
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str):
        raise UserError(f"{folder / INDEX}: expected the parts of a pipeline and its _class_name")
    found = {"_class_name": content["_class_name"]}
    for name, value in content.items():
        if re.fullmatch(r"[a-z][a-z0-9_]*", name) and isinstance(value, list) and len(value) == 2:
            found[name] = str(value[1] or "")
    return found


def denoiser_of(folder: Path) -> tuple[str, str]:
    """(name, class) of the part that is adapted. Raises UserError where there is none."""
    known = parts(folder)
    for name in DENOISERS:
        if known.get(name):
            return name, known[name]
    raise UserError(f"{folder / INDEX} names neither a transformer nor a unet: nothing there can be adapted")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of all parts, in order.

    Raises:
        UserError: the denoiser has none.
    """
    own = [name for name in parts(folder) if name != "_class_name"]
    found = [
        file
        for name in sorted(own)
        for file in sorted((folder / name).glob("*.safetensors"))
        if not any(mark in file.name for mark in (".fp16.", ".non_ema.", ".bf16."))
    ]
    name = denoiser_of(folder)[0]
    if not any(file.parent.name == name for file in found):
        raise UserError(f"{folder / name} has no safetensors file: the model's weights are not there")
    return found


def denoiser_class(folder: Path) -> Any:
    """diffusers' class of the denoiser. Raises UserError where diffusers is missing, or does not know it."""
    return _class(folder, denoiser_of(folder)[1], "model")


def scheduler_class(folder: Path) -> Any:
    """diffusers' class of the scheduler. Raises UserError as `denoiser_class` does."""
    return _class(folder, parts(folder).get("scheduler", ""), "scheduler")


def _class(folder: Path, name: str, kind: str) -> Any:
    found = getattr(library(), name, None)
    if found is None or not hasattr(found, "load_config"):
        raise UserError(f"{folder / INDEX}: diffusers {library().__version__} has no {kind} {name!r}")
    return found


def library() -> Any:
    """diffusers. Raises UserError where it is not installed."""
    try:
        import diffusers
    except ImportError:
        raise UserError("image models need diffusers: pip install 'lora-variants[diffusion]'") from None
    return diffusers


def shapes(folder: Path) -> Any:
    """The denoiser without weights, on the meta device."""
    import torch

    own = denoiser_class(folder)
    with torch.device("meta"):
        return own.from_config(own.load_config(folder / denoiser_of(folder)[0]))
