"""The configuration of a model folder (config.json): read once, and refused where no model can be made of it.

transformers takes what stands there at its word: it would build 2^63 layers, and ask whether to run code of the folder.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.documents import read_json, read_text
from variants.errors import UserError

MOST = {"layer": 1024, "expert": 10_000, "label": 100_000, "": 2**31 - 1}
"""The largest whole numbers of a configuration, by a part of their names: the first that fits. Modules, and names of
classes, are made one by one."""
_SIZE = re.compile(r"(num|n|d)_\w+|\w+_(size|dim|heads|layers|kv)|head_dim|max_position_embeddings")
ROOM = 2**28
"""Bytes that a model may take beyond 32 times its weight files: these have half a byte for each weight at the least."""


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
        UserError: it is no configuration, its sizes are no sizes, or its model is code of its own.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected keys and values")
    check_sizes(config, str(path))
    if config.get("auto_map"):
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        kind = config.get("model_type")
        if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
            raise UserError(
                f"{path}: the model is code of its own (auto_map), which is never run: take one of a type that "
                f"transformers {_version()} knows; {str(kind)[:60]!r} is none"
            )
    return config


def check_sizes(config: dict[str, Any], where: str) -> None:
    """Raise UserError, naming `where`, on numbers of layers, heads or units that no model has."""
    for key, value in config.items():
        if isinstance(value, dict):
            check_sizes(value, f"{where}: {key}")
        elif isinstance(value, int) and not isinstance(value, bool):
            most = next(most for part, most in MOST.items() if part in key)
            if abs(value) > most or value < 0 and _SIZE.fullmatch(key):
                raise UserError(f"{where}: {key} must lie between 0 and {most:,}, not {value}")


def check_memory(shapes: Callable[[Path, str], Any], folder: Path, kind: str, files: list[Path]) -> None:
    """Raise UserError where a model is far larger than its weight files.

    Args:
        shapes: makes the model of a folder without weights, on the meta device.
        kind: transformers' name of the kind of model, which ``shapes`` takes too.
        files: of the weights.
    """
    described = 4 * _numbers(shapes, folder, kind, read_text(folder / "config.json"))
    held = sum(file.stat().st_size for file in files)
    if described > 32 * held + ROOM:
        raise UserError(
            f"its config.json describes {described / 4:,.0f} weights, but its weight files hold {held:,} bytes: they "
            "do not belong together"
        )


@functools.lru_cache
def _numbers(shapes: Callable[[Path, str], Any], folder: Path, kind: str, config: str) -> int:
    """How many numbers a model has, as its configuration's text says: each seed of a stack loads the same one."""
    model = shapes(folder, kind)
    return sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))


def _version() -> str:
    import transformers

    return transformers.__version__
