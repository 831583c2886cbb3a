"""The code of a class that stands in no file, as in a notebook's cell: its text, and that of whatever it uses there."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

PLAIN = (bool, int, float, complex, str, bytes, type(None), tuple, list, dict)
"""Kinds of values whose text says what they are."""


def cell_hash(cls: type) -> str:
    """Hash of a class's code, and of the classes, functions and plain values of its module that it uses."""
    names = vars(sys.modules[cls.__module__])
    digest, seen, todo = hashlib.sha256(), set(), [cls]
    while todo:
        thing = todo.pop()
        if thing in seen or getattr(thing, "__module__", None) != cls.__module__:
            continue
        seen.add(thing)
        for name, part in sorted(_parts(thing)):
            if isinstance(part, PLAIN):
                digest.update(f"{name}={part!r};".encode())
            elif isinstance(part, types.FunctionType):
                digest.update(f"{name}: {_text(part)};".encode())
                used = {word: names[word] for word in _words(part.__code__) if word in names}
                digest.update("".join(f"{k}={v!r};" for k, v in sorted(used.items()) if isinstance(v, PLAIN)).encode())
                todo += [value for value in used.values() if isinstance(value, (type, types.FunctionType))]
            elif isinstance(part, type):
                digest.update(f"{name}={part.__qualname__};".encode())
                todo.append(part)
    return digest.hexdigest()[:12]


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """What a class or function is made of, by name: methods, values, bases, and what a dataclass's fields are."""
    if isinstance(thing, types.FunctionType):
        yield "", thing
        return
    for name, part in vars(thing).items():
        part = getattr(part, "__func__", part)
        part = part.fget if isinstance(part, property) else part
        if not name.startswith("__") or isinstance(part, types.FunctionType):
            yield name, part
    for number, base in enumerate(thing.__bases__):
        yield f"base {number}", base
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            yield f"field {field.name}", (str(field.type), field.default if isinstance(field.default, PLAIN) else "")


def _text(function: types.FunctionType) -> str:
    """Its source, which IPython keeps for cells; else its compiled form."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return " ".join(_compiled(function.__code__))


def _compiled(code: types.CodeType) -> Iterator[str]:
    yield f"{code.co_code.hex()} {code.co_names}"
    for constant in code.co_consts:
        yield from _compiled(constant) if isinstance(constant, types.CodeType) else (repr(constant),)


def _words(code: types.CodeType) -> Iterator[str]:
    """Names that a function looks up, those of functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _words(constant)
