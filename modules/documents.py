"""Text, JSON and YAML files as the project reads them: plain data, or one line that says what is wrong.

Every file that comes from outside passes here first. What is handed on is finite: numbers, text without control
characters, lists and mappings with keys of text, nested at most `DEEPEST` levels. Types and ranges are the business of
`variants/schema.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from variants.errors import UserError, first_line
from variants.schema import LARGEST_NUMBER

LARGEST = 64 * 2**20
"""Bytes of a file that is read at once."""
DEEPEST = 50
"""Levels of a document."""
MOST = 100_000
"""Values of a YAML file, those that aliases repeat included."""


def read_text(path: str | Path, bound: int | None = LARGEST) -> str:
    """The text of a UTF-8 file, with or without BOM; line ends as they are.

    Args:
        bound: the most bytes; None for whatever there is.

    Raises:
        UserError: the file cannot be read, is too large, or is not UTF-8; the line names it.
    """
    return decoded(read_bytes(path, bound), path)


def read_bytes(path: str | Path, bound: int | None = LARGEST) -> bytes:
    """The content of a file; arguments and errors as in `read_text`."""
    try:
        with open(path, "rb") as file:
            data = file.read(-1 if bound is None else bound + 1)
    except FileNotFoundError:
        raise UserError(f"there is no file {str(path)!r}") from None
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if bound is not None and len(data) > bound:
        raise UserError(f"{path} is larger than {bound:,} bytes: it is not such a file")
    return data


def modified(path: Path) -> int:
    """When a file was changed last, in ns, for what is read only once. Raises UserError where there is none."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def decoded(data: bytes, path: str | Path) -> str:
    """The text of bytes in UTF-8, with or without BOM. Raises UserError naming `path`, line and byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        data = error.object  # without the BOM, where there was one
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8") from None


def read_json(path: str | Path) -> Any:
    """The plain data of a JSON file. Raises UserError naming the file and what is wrong."""
    return parse_json(read_text(path), path)


def parse_json(text: str, path: str | Path) -> Any:
    """The plain data of a JSON text; `path` is named in errors, as in `read_json`."""
    return _plain(lambda: json.loads(text), path, "JSON")


def read_yaml(path: str | Path) -> Any:
    """The plain data of a YAML file of one document, None of an empty one.

    No tag makes an object; aliases may repeat values, up to `MOST` in all, and may not refer to themselves.

    Raises:
        UserError: naming the file and what is wrong.
    """
    return parse_yaml(read_text(path), path)


def parse_yaml(text: str, path: str | Path) -> Any:
    """The plain data of a YAML text; `path` is named in errors, as in `read_yaml`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where there is a compiled one

    def load() -> Any:
        _bounded(yaml.parse(text, Loader=loader))
        return yaml.load(text, Loader=loader)

    return _plain(load, path, "YAML")


def check_yaml(text: str, name: str) -> None:
    """Raise UserError where a text, read as YAML, is too much, or an object; that it may be no YAML is no matter."""
    import yaml

    try:
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
        if tag := next((event.tag for event in events if getattr(event, "tag", None)), None):
            raise _Unfit(f"the tag {tag[:60]} makes no value")
        _bounded(events)
    except _Unfit as error:
        raise UserError(f"{name}: {error}") from None
    except (yaml.YAMLError, ValueError):
        return


def _plain(load: Callable[[], Any], path: str | Path, kind: str) -> Any:
    try:
        value = load()
        _check(value, "", 0)
    except _Unfit as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: {_DEEP}") from None
    except Exception as error:  # a parser of damaged text raises a dozen kinds
        raise UserError(f"{path} is not {kind}: {_words(error)}") from None
    return value


_DEEP = f"it is nested more than {DEEPEST} levels deep"


class _Unfit(Exception):
    """Well-formed, but nothing that such a file may hold."""


def _bounded(events: Iterable[Any]) -> None:
    """Raise _Unfit on a YAML text that is nested too deeply, or whose aliases stand for too much."""
    import yaml

    sizes: dict[str, int] = {}  # values that an anchor stands for
    open_: list[tuple[str | None, int]] = []  # (anchor, values before it) of lists and mappings around the event
    count = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise _Unfit(f"line {event.start_mark.line + 1}: the alias *{event.anchor} refers to itself")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, count))
            elif event.anchor:
                sizes[event.anchor] = 1
            count += 1
        if len(open_) > DEEPEST:
            raise _Unfit(_DEEP)
        if count > MOST:
            raise _Unfit(f"its aliases stand for more than {MOST:,} values")


def _check(value: Any, place: str, depth: int) -> None:
    """Raise _Unfit, naming the place inside the file, on what is not plain data."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(value, place)
    elif isinstance(value, (int, float)):
        if not math.isfinite(value) if isinstance(value, float) else abs(value) >= LARGEST_NUMBER:
            raise _Unfit(f"{place[2:] or 'it'} is not a finite number, or too large a one")
    elif isinstance(value, (dict, list)):
        if depth >= DEEPEST:
            raise _Unfit(_DEEP)
        if isinstance(value, list):
            for number, item in enumerate(value, 1):
                _check(item, f"{place} {number}", depth + 1)
            return
        for key, item in value.items():
            if not isinstance(key, str):
                raise _Unfit(f"{place[2:] or 'it'} has the key {key!r}: keys are text, put it in quotes")
            _check_text(key, place)
            _check(item, f"{place}: {key}", depth + 1)
    else:
        raise _Unfit(f"{place[2:] or 'it'} is a {type(value).__name__}: put it in quotes if it is text")


def _check_text(text: str, place: str) -> None:
    if not text.isprintable() and (bad := next((c for c in text if c < " " and c not in "\n\t\r" or _odd(c)), None)):
        raise _Unfit(f"{place[2:] or 'it'} has the character U+{ord(bad):04X}")


def _odd(character: str) -> bool:
    """Whether a character is half of one (no UTF-8 has it), or controls terminals."""
    return "\ud800" <= character <= "\udfff" or "\x7f" <= character < "\xa0" and character != "\x85"


def _words(error: Exception) -> str:
    """What a parser says, with the place."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or error.context}"
    return first_line(error).partition(": ")[2] or first_line(error)
