"""Arrays that are kept in files between runs."""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from variants.atomic import write_atomic
from variants.errors import UserError


def cache_dir() -> Path:
    """The cache folder (it may not exist yet)."""
    return Path(os.environ.get("LORA_VARIANTS_CACHE") or os.path.expanduser("~/.cache/lora-variants"))


def digest(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def cached_arrays(path: Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Maps the arrays of `path`; where it is absent or damaged, makes them and tries to write it."""
    from safetensors.numpy import save

    arrays = _read(path)
    if arrays is None:
        arrays = make()
        try:
            write_atomic(path, save(arrays, {"crc": str(_checksum(arrays))}))
        except UserError as error:
            warnings.warn(f"the tokens are not kept: {error}; going on without it", stacklevel=2)
    return arrays


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The mapped arrays of a cache file, or None where it is absent, cut off or altered."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:  # torch's reader maps the file, numpy's copies it
            arrays = {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118
            intact = (file.metadata() or {}).get("crc") == str(_checksum(arrays))
    except FileNotFoundError:
        return None
    except Exception:  # whatever is wrong with it, it is made again
        intact = False
    if not intact:
        warnings.warn(f"the cache file {path} is damaged; making it again", stacklevel=3)
        return None
    return arrays


def _checksum(arrays: dict[str, np.ndarray]) -> int:
    """Of names, types, shapes and values."""
    value = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        value = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8), value)
    return value
