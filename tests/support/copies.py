"""Copies of the project that lack a part, and Python started in them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALONE = """
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
"""
"""Python carries this out at its start: an editable install would find in the original what the copy lacks."""


def copy_without(folder: Path, parts: Iterable[str], deleted: Iterable[str]) -> Path:
    """``folder`` with these files and folders of the project, less what is deleted."""
    folder.mkdir()
    for part in parts:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    for part in deleted:
        shutil.rmtree(folder / part)
    (folder / "sitecustomize.py").write_text(ALONE)
    return folder


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Start Python in a copy, where it finds the copy alone."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
