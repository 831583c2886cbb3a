"""Checkpoints as files: written whole, and taken up only as they were written."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from variants.atomic import move_aside, write_atomic
from variants.errors import UserError


def write_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and numbers beside their place, then rename. Raises UserError on a full disk."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getbuffer())


def read_checkpoint(
    path: Path,
    title: str,
    why_not: Callable[[dict[str, Any]], str | None],
    first: bool = True,
) -> dict[str, Any] | None:
    """What `write_checkpoint` left, on the CPU; None where there is none that can be gone on from.

    One that is damaged, or that is refused, is moved aside, and said: the training then begins anew.

    Args:
        title: of the training, for the message.
        why_not: why training cannot go on from a content, or None where it can.
        first: whether this is the first of several processes, which alone moves and says.

    Raises:
        UserError: it can be neither used nor moved.
    """
    if not path.is_file():
        return None
    content, reason = _read(path)
    if reason is None:
        reason = why_not(content) if isinstance(content, dict) else "is none of this project"
    if reason is None:
        return content
    if first:
        try:
            aside = move_aside(path).name
        except OSError as error:
            raise UserError(f"{title}: {path} {reason}, and cannot be moved: {error.strerror}") from error
        print(f"{title}: its checkpoint {path} {reason}: moved to {aside}, and it begins anew", file=sys.stderr)
    return None


def _read(path: Path) -> tuple[Any, str | None]:
    """(content, why it cannot be trusted).

    torch writes a zip archive, which holds a checksum (CRC-32) of each of its parts, and does not compare them.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                return None, f"is damaged (checksum of {damaged})"
        return torch.load(path, map_location="cpu", weights_only=True), None
    except Exception as error:  # a damaged file makes its readers fail in every way
        return None, f"is damaged ({type(error).__name__})"
