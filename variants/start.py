"""``python variants/start.py MODULE WORDS...``: a program of the project, from whatever folder it is started.

A folder on Python's path, or the one that a person is in, may have packages called ``modules`` or ``variants`` too;
``python -m`` would take those. This file is started, or read, by its path and imports the standard library alone.
"""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
OWN = ("variants", "modules", "paper_repro")
"""The project's packages."""


class OwnPackages:
    """Finds the project's packages beside this file, whatever the path says; all other modules as ever."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The place of one of them; None for any other module."""
        return PathFinder.find_spec(name, [str(HERE.parents[1])]) if path is None and name in OWN else None


def own_packages_first() -> None:
    """From here on the project's packages are those beside this file."""
    if not any(getattr(finder, "__name__", "") == OwnPackages.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, OwnPackages)


def python(*words: str) -> list[str]:
    """The command for ``python -m MODULE WORDS...`` in a process: where a module may have come from the project."""
    return [sys.executable, str(HERE), *words]


def _main() -> None:
    """As ``python -m``: the folder where the person is comes first on the path. ``-u`` and ``-m`` may stand before."""
    words = sys.argv[1:]
    while words[0] in ("-u", "-m"):
        words.pop(0)
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path.cwd())
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__")


own_packages_first()  # also where a process of multiprocessing reads this file as its parent's main module
if __name__ == "__main__":
    _main()
