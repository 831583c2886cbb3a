"""What a run ran on: versions, devices and the state of the code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from modules.paths import PROJECT


def environment(device: str = "cpu", devices: int = 1) -> dict[str, Any]:
    """What the run ran on: versions, device name and count, commit and dirty flag of the project, UTC time."""
    commit, dirty = git_state()
    versions = {name: _version(name) for name in ("torch", "lightning", "transformers")}
    return {
        "python": platform.python_version(),
        **versions,
        "device": device_name(device),
        "devices": devices,
        "commit": commit,
        "dirty": dirty,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


@lru_cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def device_name(device: str) -> str:
    """Product name of a device such as "cuda:0" or "cpu"; the plain word where the system does not tell."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    if device == "cpu" and os.path.exists("/proc/cpuinfo"):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or device


@lru_cache
def git_state(root: Path = PROJECT) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the checkout at `root`; outside of one what
    LORA_VARIANTS_COMMIT says that the copy was made from, and None."""
    if not (root / ".git").exists():  # an installed copy may lie inside somebody else's repository
        return os.environ.get("LORA_VARIANTS_COMMIT") or None, None
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, env=clean, check=True)
    except (OSError, subprocess.SubprocessError):
        return None, None
    lines = done.stdout.splitlines()
    oid = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), "(initial)")
    dirty = any(not line.startswith("#") for line in lines)
    return (None if oid == "(initial)" else oid), dirty
