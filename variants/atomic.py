"""Files that are whole or not there. Nothing heavy is imported here."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

from variants.errors import UserError


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write `content` so that `path` is the old file or the new one, never half of it.

    Raises UserError where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {reason}; free some space or name another folder (--results_dir)"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
