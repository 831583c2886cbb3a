"""Where in an inventor's files a mistake is: in one line, as ``my_file.py:12``."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from variants.errors import UserError, first_line

_PLACED = re.compile(r"\S+\.py:\d+: ")
PROJECT = Path(__file__).resolve().parents[1]
"""The folder of this package."""


def place(error: BaseException, *classes: type) -> str:
    """Where an error was raised, as ``my_file.py:12: ``; "" where no inventor's file was on the way."""
    return f"{found}: " if (found := _place(error, classes)) else ""


def located(error: BaseException, *classes: type) -> str:
    """What went wrong with its place, such as ``my_file.py:12: KeyError: 'y'``.

    Args:
        classes: whose files count; by default every file that is neither the project's nor a library's.
    """
    message = first_line(error)
    if isinstance(error, UserError):
        message = str(error)
        if has_place(message):
            return message
    elif isinstance(error, SyntaxError):
        message = f"{type(error).__name__}: {error.msg}"
    return place(error, *classes) + message


def definition(cls: type) -> str:
    """Where a class stands, such as ``my_file.py:12``; "" where there is no source."""
    try:
        return f"{Path(inspect.getsourcefile(cls)).name}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):
        return ""


def _place(error: BaseException, classes: tuple[type, ...]) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    files = {str(file) for cls in classes for file in files_of(cls)}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files or (not classes and _is_outside(frame.filename)):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    for file, line in reversed(re.findall(r'File "([^"]+)", line (\d+)', str(error))):  # torch.compile's
        if file in files or (not classes and _is_outside(file)):
            return f"{Path(file).name}:{line}"
    return ""


def has_place(text: str) -> bool:
    """Whether a message begins with a place."""
    return bool(_PLACED.match(text))


def files_of(cls: type) -> Iterator[Path]:
    """Files that define a class and its bases, without those of the interface itself."""
    for base in cls.__mro__:
        file = getattr(sys.modules.get(base.__module__), "__file__", None)
        if file and not (Path(file).parent == PROJECT or _is_library(file)):
            yield Path(file)


def _is_outside(file: str) -> bool:
    ours = any(Path(file).is_relative_to(folder) for folder in (PROJECT, PROJECT.parent / "modules"))
    return not (ours or file.startswith("<") or _is_library(file))


def _is_library(file: str) -> bool:
    return "site-packages" in file or Path(file).is_relative_to(Path(inspect.__file__).parent)
