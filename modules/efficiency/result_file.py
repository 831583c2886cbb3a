"""The result file of the efficiency benchmark, DEVICE.json."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

from modules.documents import read_json
from modules.efficiency import thresholds
from variants.atomic import write_atomic
from variants.errors import UserError

FORMAT = 1


def save(path: Path, result: dict[str, Any]) -> None:
    """Write a result with its thresholds, atomically; lists of numbers take a line each."""
    text = json.dumps(result | {"bars": thresholds.rows(result)}, indent=1)
    text = re.sub(r"\[\s+([-\d.,\se]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
    write_atomic(path, text + "\n")


def read(path: Path) -> dict[str, Any]:
    """The result in a file; {} where there is no file.

    Raises:
        UserError: it is no result file of this command.
    """
    if not path.is_file():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is not a result file of this command: move it away, or choose another --out")
    return found


def slug(device: str, kind: str) -> str:
    """The name of a device's files, such as ``nvidia-h100-80gb-hbm3`` or ``cpu-intel-xeon``.

    Args:
        device: its full name.
        kind: cuda or cpu.
    """
    words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(.*?\)|@.*|\bcpu\b|processor", " ", device.lower())).strip("-")
    return words if kind == "cuda" else f"cpu-{words}"


def peft_version() -> str | None:
    """PEFT's version; None where it is not installed."""
    try:
        return metadata.version("peft")
    except metadata.PackageNotFoundError:
        return None
