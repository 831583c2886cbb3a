"""What a file must hold, as a dataclass or a TypedDict: its fields' annotations are checked once, where it is read.

    @dataclass
    class Tune:
        seed: int
        tasks: list[str]
        epochs: int | None = None

    built(Tune, content, "plan.yaml: tune")     # or UserError: plan.yaml: tune: seed must be a whole number, not 'x'

Annotations are those of JSON and YAML: None, bool, int, float, str, Any, Literal, list, tuple, dict, Mapping, unions,
other such classes. The functions of an `Annotated[int, between(0, 9)]` are called with the value and raise ValueError.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from variants.errors import UserError, shown

T = TypeVar("T")
LARGEST_NUMBER = 2**63
"""An integer of this size is none of a file's: it counts nothing, and may be beyond every float."""


def between(low: float, high: float) -> Callable[[float], None]:
    """A check of a number's range, for `Annotated`."""

    def check(value: float) -> None:
        if not low <= value <= high:
            raise ValueError(f"must lie between {low:,} and {high:,}")

    return check


Seed = Annotated[int, between(0, 2**32 - 1)]
"""Of the random numbers of a run: what every library takes."""


def built(cls: type[T], content: Any, where: str) -> T:
    """An object of a dataclass from a mapping.

    Args:
        where: the file and the place in it, the beginning of an error's line.

    Raises:
        UserError: a key is unknown or missing, or a value is of another type.
    """
    return cls(**checked(cls, content, where))


def checked(hint: Any, content: Any, where: str) -> Any:
    """`content`, made of what an annotation says: tuples of lists, and objects of the dataclasses inside.

    Of a dataclass or TypedDict at the top: its fields by name. Raises UserError as `built` does.
    """
    try:
        if dataclasses.is_dataclass(hint):
            return _fields(hint, content)
        return _made(hint, content)
    except _Wrong as error:
        raise UserError(f"{where}: {error}") from None


def check_keys(content: Any, names: Iterable[str], where: str) -> None:
    """Raise UserError, naming `where`, unless `content` is a mapping all of whose keys are among `names`."""
    try:
        _check_keys(content, names)
    except _Wrong as error:
        raise UserError(f"{where}: {error}") from None


class _Wrong(Exception):
    """What is wrong with a value, such as "must be text"; `at` puts the place before it."""

    def __init__(self, text: str, sentence: bool = False) -> None:
        super().__init__(text)
        self.sentence = sentence  # with a subject of its own

    def at(self, place: str) -> _Wrong:
        return _Wrong(f"{place}{':' if self.sentence else ''} {self}", True)


@lru_cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _fields(cls: type, content: Any) -> dict[str, Any]:
    """The values of a dataclass's fields, or of a TypedDict's keys."""
    hints = _hints(cls)
    if dataclasses.is_dataclass(cls):
        known = [f.name for f in dataclasses.fields(cls)]
        needed = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is MISSING]
        _check_keys(content, known)
    else:
        known, needed = list(hints), [name for name in hints if name in cls.__required_keys__]
        if not isinstance(content, Mapping):
            raise _Wrong(f"expected keys and values, found {shown(content)}", True)
    for name in needed:
        if name not in content:
            raise _Wrong(f"{name!r} is missing", True)
    made = dict(content)
    for name in known:
        if name in content:
            try:
                made[name] = _made(hints[name], content[name])
            except _Wrong as error:
                raise error.at(name) from None
    return made


def _check_keys(content: Any, names: Iterable[str]) -> None:
    if not isinstance(content, Mapping):
        raise _Wrong(f"expected keys and values, found {shown(content)}", True)
    names = sorted(names)
    for key in content:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1) or names
            raise _Wrong(f"unknown key {shown(key)}; did you mean {' or '.join(close)}?", True)


@lru_cache
def _opened(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """What an annotation is made with, and of."""
    return typing.get_origin(hint), typing.get_args(hint)


def _made(hint: Any, value: Any) -> Any:
    origin, arguments = _opened(hint)
    if origin is Annotated:
        value = _made(arguments[0], value)
        for check in arguments[1:]:
            try:
                check(value)
            except ValueError as error:
                raise _Wrong(f"{error}, not {shown(value)}") from None
        return value
    if hint is Any or hint is None and value is None:
        return value
    if origin in (typing.Union, types.UnionType):
        return _any_of(arguments, hint, value)
    if origin is Literal:
        if value in arguments and type(value) in map(type, arguments):
            return value
        raise _Wrong(f"must be {_named(hint)}, not {shown(value)}")
    if typing.is_typeddict(hint):
        return _fields(hint, value)
    if dataclasses.is_dataclass(hint):
        return hint(**_fields(hint, value))
    kind = origin or hint
    if not _is(kind, value):
        exponent = kind is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value)
        remedy = "; YAML reads 5e-4 as text, write 5.0e-4" if exponent else ""
        raise _Wrong(f"must be {_named(hint)}, not {shown(value)}{remedy}")
    if not arguments:
        return value
    if kind in (list, tuple):
        items = [_item(arguments[0], item, f"entry {number}") for number, item in enumerate(value, 1)]
        return tuple(items) if kind is tuple else items
    return {key: _item(arguments[1], item, str(key)) for key, item in value.items()}


def _item(hint: Any, value: Any, place: str) -> Any:
    try:
        return _made(hint, value)
    except _Wrong as error:
        raise error.at(place) from None


def _any_of(hints: tuple[Any, ...], whole: Any, value: Any) -> Any:
    """`value` as the first of several annotations that it fits."""
    wrong = []
    for hint in hints:
        if hint is type(None):
            if value is None:
                return None
            continue
        try:
            return _made(hint, value)
        except _Wrong as error:
            wrong.append(error)
    raise wrong[0] if len(wrong) == 1 and value is not None else _Wrong(f"must be {_named(whole)}, not {shown(value)}")


def _is(kind: Any, value: Any) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        if isinstance(value, int):
            return not isinstance(value, bool) and abs(value) < LARGEST_NUMBER
        return kind is float and isinstance(value, float) and math.isfinite(value)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, Mapping if issubclass(kind, Mapping) else kind)


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}


def _named(hint: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_named, arguments)))
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is Annotated:
        return _named(arguments[0])
    if (origin or hint) in (list, tuple):
        return "a list"
    return _NAMES.get(hint, "keys and values")
