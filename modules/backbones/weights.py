"""The files that hold a model's weights, and their hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import TypedDict

from modules.backbones.diffusion.folder import is_pipeline, weight_files
from modules.data.cache import cache_dir, digest
from modules.documents import read_json
from modules.hub import WEIGHT_FILES
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.schema import checked


class _Index(TypedDict):
    weight_map: dict[str, str]


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, shards in order; empty where there are none."""
    if is_pipeline(folder):
        return weight_files(folder)
    single, index = (folder / name for name in WEIGHT_FILES)
    if single.is_file():
        return [single]
    if not index.is_file():
        return []
    try:
        names = checked(_Index, read_json(index), str(index))["weight_map"]
        if not names or not all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names.values()):
            raise UserError("its weights are in no files of the folder")
    except UserError as error:
        raise UserError(f"{index} is not a valid weight index ({error}); download the model again") from None
    return [folder / name for name in sorted(set(names.values()))]


def weights_hash(folder: Path) -> str:
    """SHA-256 (hex) over the weight files; remembered per file by path, size and time of change."""
    return digest("".join(_file_hash(file) for file in _weight_files(folder)).encode())


def _file_hash(path: Path) -> str:
    path = path.resolve()
    stat = path.stat()
    note = cache_dir() / "hashes" / digest(json.dumps([str(path), stat.st_size, stat.st_mtime_ns]).encode())[:24]
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", text := note.read_text()):
            return text
    with open(path, "rb") as file:
        value = hashlib.sha256()
        while block := file.read(1 << 20):
            value.update(block)
    with contextlib.suppress(UserError):  # the cache saves time only
        write_atomic(note, value.hexdigest())
    return value.hexdigest()
