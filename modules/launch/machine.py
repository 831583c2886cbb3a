"""Which machine this is, and whether a process of it still runs: what two processes need to know of each other."""

from __future__ import annotations

import os
import platform
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

_BOOT, _PIDS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


@cache
def this_machine() -> str:
    """Name of the place in which process numbers mean what they mean here.

    On Linux the boot of the machine and the PID namespace: machines may share a host name, and containers of one
    machine do not see each other's processes. Elsewhere the host name and a network card's number.
    """
    with suppress(OSError):
        return f"{_BOOT.read_text().strip()} {os.readlink(_PIDS)}"
    return f"{platform.node()} {uuid.getnode():x}"


def started(process: int) -> int | None:
    """When a process of this machine started, in ticks since the boot; None where the system does not say."""
    found = _stat(process)
    return found and int(found[19])


def runs(machine: str, process: int, start: int | None) -> bool | None:
    """Whether the process of that number, and of that start, still runs; None where nobody here can know.

    A killed process counts as ended though its parent has not asked for its exit code yet.
    """
    if machine != this_machine() or os.name != "posix":  # elsewhere the question would end the process
        return None
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    if start is None:
        return None  # the number may be another process's by now
    found = _stat(process)
    return found is not None and int(found[19]) == start and found[0] not in "ZX"


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold anything: state first, start time twentieth."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return None
