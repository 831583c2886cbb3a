"""Where in an inventor's files a mistake is: in one line, as ``my_file.py:12``."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
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


def definition(thing: type | Callable) -> str:
    """Where a class or a function stands, such as ``my_file.py:12``; "" where there is no source."""
    try:
        thing = inspect.unwrap(thing)  # out of torch.no_grad()
        return f"{Path(inspect.getsourcefile(thing)).name}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return ""


def calling() -> str:
    """The line of an inventor's file that is being carried out, such as ``my_file.py:12``; "" where there is none."""
    frame = sys._getframe(1)
    while frame is not None and not _is_outside(frame.f_code.co_filename):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame is not None else ""


def assigned(name: str, *classes: type, last: bool = False) -> str:
    """Where an attribute is set, such as ``my_file.py:12``: in the code of inventors' classes, else in their files.

    Args:
        name: the attribute's; what follows it, as in ``past[0]``, is left out.
        last: the last place; else the first. "" where there is none.
    """
    name, bases = re.match(r"\w*", name)[0], [base for cls in classes for base in cls.__mro__]
    for thing in (*bases, *(sys.modules.get(base.__module__) for base in bases)):
        try:
            file, (lines, first) = inspect.getsourcefile(thing), inspect.getsourcelines(thing)
        except (OSError, TypeError):
            continue
        if _is_outside(file) and (found := _stores(name, "".join(lines))):
            return f"{Path(file).name}:{max(first, 1) - 1 + (max(found) if last else min(found))}"
    return ""


def _stores(name: str, source: str) -> list[int]:
    """Lines, from 1, that set an attribute."""
    nodes = [n for n in ast.walk(ast.parse(textwrap.dedent(source))) if isinstance(n, ast.Attribute) and n.attr == name]
    return [node.lineno for node in nodes if isinstance(node.ctx, ast.Store)]


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
