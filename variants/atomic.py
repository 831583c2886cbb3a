"""Files that are whole or not there. Nothing heavy is imported here."""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from variants.errors import UserError

_HOST = re.sub(r"\W", "", platform.node()) or "host"


def write_atomic(path: str | Path, content: str | bytes | memoryview) -> None:
    """Write `content` so that `path` is the old file or the new one, never half of it.

    It is written beside its place and renamed: between two disks a rename would be a copy, which can stop half way.
    What a killed write of the same file left is removed.

    Raises UserError where the disk is full or the folder cannot be written.
    """
    path = Path(path)
    with _written_beside(path, content) as temporary:
        os.replace(temporary, path)


def write_new(path: str | Path, content: bytes) -> bool:
    """Write `content` where no file is yet, so that one of several writers, on any machine, succeeds: whether this did.

    A hard link of a whole file is made in one act on local file systems and on NFS, also on servers and clients whose
    exclusive creation is not one. Should the answer to it get lost, NFS asks again and is told that the name is taken,
    so the file itself is asked: no two writers may bring equal contents. File systems without hard links (FAT, some
    network shares) create the file exclusively instead, in one act too, and readers may see it empty for a moment.

    Raises UserError where it cannot be written.
    """
    path = Path(path)
    with _written_beside(path, content) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return os.stat(temporary).st_nlink == 2 or _reads(path, content)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with open(path, "xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
        return True


_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


def _reads(path: Path, content: bytes) -> bool:
    with suppress(OSError):
        return path.read_bytes() == content
    return False


@contextmanager
def _written_beside(path: Path, content: str | bytes | memoryview) -> Iterator[Path]:
    """The content in a file of another name in the same folder, which is removed if it is still there afterwards."""
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{secrets.randbits(62)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; free some space or name another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what writes left in a folder whose processes were killed; with ``name`` those of this file alone."""
    for file in folder.glob(f".{'*' if name is None else glob.escape(name)}.*.tmp"):
        writer = re.search(r"\.(?:(\w+)-)?(\d+)-\d+\.tmp$", file.name)
        if writer and writer[1] in (None, _HOST) and not _lives(int(writer[2])):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether a process of this machine is there; true where that cannot be known."""
    if os.name != "posix":  # elsewhere the question would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is somebody else's, or no number of a process here
        return True
    return True


def move_aside(path: Path) -> Path:
    """Give a file that is of no use a name beside its own (``name.corrupt-1``, ``-2``, ...), which it returns.

    Raises OSError where the folder cannot be written.
    """
    number = 1
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    os.replace(path, aside)
    return aside
