"""Values of options by their types: from the text of a command line, from plain data such as YAML's, and back."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from variants.errors import VariantError

SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""What is written for a switch -> its value."""
NOTHING = ("null", "none")
"""What is written for None."""
_SEVERAL: dict[Any, Callable] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: tuple,
    collections.abc.Iterable: tuple,
    collections.abc.Collection: tuple,
}
_MAPS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Unfit(ValueError):
    """A value is not of a type; the message says of which kind it must be."""


def read(value: Any, kind: Any, default: Any = dataclasses.MISSING) -> Any:
    """A value of the type ``kind``, from itself, from text or from plain data.

    Args:
        kind: int, float, bool, str, Path, an Enum, a dataclass, Literal, lists, tuples, sets and mappings of these,
            optional ones and unions; anything else is taken as it is.
        default: of the option: what a dataclass's value leaves out is as it is there.

    Raises:
        Unfit: it is of another kind.
    """
    kind = _bare(kind)
    origin, inside = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(value, inside, default)
    if origin is Literal:
        return _choice(value, choices(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value if isinstance(value, kind) else _choice(value, {str(m.value): m for m in kind} | choices(kind))
    if dataclasses.is_dataclass(kind):
        return _nested(value, kind, default)
    if origin in _SEVERAL:
        return _several(value, origin, inside)
    if origin in _MAPS:
        return _mapping(value, inside)
    if kind in (bool, int, float, str, Path):
        return _simple(value, kind)
    if kind is type(None):
        if value is None or str(value).lower() in NOTHING:
            return None
        raise Unfit("null")
    return value


def from_text(text: str, kind: Any, default: Any = dataclasses.MISSING) -> Any:
    """As :func:`read`, of the text of a command line: where any kind will do, a number is a number."""
    return _structure(text) if _bare(kind) is Any else read(text, kind, default)


def _bare(kind: Any) -> Any:
    """A type without what only describes it."""
    while True:
        if typing.get_origin(kind) is Annotated:
            kind = typing.get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        else:
            return kind


def is_switch(kind: Any) -> bool:
    """Whether a type has no values but True and False, and perhaps None."""
    return _bare(kind) is bool or set(typing.get_args(kind)) == {bool, type(None)}


def dataclass_in(kind: Any) -> type | None:
    """The dataclass that a type is, or that it may be beside None."""
    kinds = [k for k in (typing.get_args(kind) or (kind,)) if k is not type(None)]
    return kinds[0] if len(kinds) == 1 and dataclasses.is_dataclass(kinds[0]) else None


def choices(kind: Any) -> dict[str, Any]:
    """The values of an Enum or a Literal by the words that name them; none of other types."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return dict(kind.__members__)
    return {str(choice): choice for choice in typing.get_args(kind)} if typing.get_origin(kind) is Literal else {}


def _choice(value: Any, known: dict[str, Any]) -> Any:
    if str(value) not in known:
        raise Unfit("one of " + ", ".join(known))
    return known[str(value)]


def _one_of(value: Any, kinds: tuple, default: Any) -> Any:
    """The first kind that fits; text last, as everything is text."""
    refusals = []
    if str in kinds and str(value).lower() == "none":  # a word as any other
        return value
    for kind in sorted(kinds, key=lambda kind: (kind is str, kind is not type(None))):
        try:
            return read(value, kind, default)
        except Unfit as reason:
            refusals.append(str(reason))
    raise Unfit(" or ".join(refusals[1:] + refusals[:1] if refusals[0] == "null" else refusals))


def _simple(value: Any, kind: type) -> Any:
    try:
        if kind is bool:
            return value if isinstance(value, bool) else SWITCHES[str(value).lower()]
        if kind is str and isinstance(value, (bool, int, float)):
            return str(value)
        if kind in (str, Path):
            if isinstance(value, (str, Path)):
                return kind(value)
        elif not isinstance(value, bool) and isinstance(value, (str, int, float)):
            number = kind(value)
            if isinstance(value, float) and number != value or not math.isfinite(number):
                raise Unfit(f"a finite {kind.__name__}" if kind is float else kind.__name__)
            return value if isinstance(value, int) else number
    except (KeyError, OverflowError, ValueError) as error:
        if isinstance(error, Unfit):
            raise
    raise Unfit("true or false" if kind is bool else kind.__name__)


def _several(value: Any, origin: Any, inside: tuple) -> Any:
    value = _structure(value, in_commas=True, typed=bool(inside)) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple, set, frozenset)):
        value = [value]
    items, fixed = list(value), origin is tuple and inside and Ellipsis not in inside
    if fixed and len(items) != len(inside):
        raise Unfit(f"{len(inside)} values such as {','.join(map(_described, inside))}")
    kinds = inside if fixed else [*inside[:1], Any][:1] * len(items)
    try:
        return _SEVERAL[origin](read(item, kind) for item, kind in zip(items, kinds, strict=True))
    except Unfit as reason:
        raise Unfit(f"a list such as [1, 2] whose values are {reason}") from None


def _mapping(value: Any, inside: tuple) -> dict:
    value = _structure(value) if isinstance(value, str) else value
    if not isinstance(value, collections.abc.Mapping):
        raise Unfit("a mapping such as {a: 1}")
    key, item = inside or (Any, Any)
    try:
        return {read(k, key): read(v, item) for k, v in value.items()}
    except Unfit as reason:
        raise Unfit(f"a mapping whose keys and values are {reason}") from None


def _nested(value: Any, kind: type, default: Any) -> Any:
    if isinstance(value, kind):
        return value
    value = _structure(value) if isinstance(value, str) else value
    known = typing.get_type_hints(kind, include_extras=True)
    names = [f.name for f in dataclasses.fields(kind) if f.init]
    if not isinstance(value, collections.abc.Mapping):
        raise Unfit("a mapping such as {" + ": ..., ".join(names) + ": ...}")
    if unknown := [name for name in value if name not in names]:
        raise Unfit(f"a mapping of {', '.join(names)} without {unknown[0]!r}")
    try:
        given = {name: read(part, known[name], getattr(default, name, None)) for name, part in value.items()}
    except Unfit as reason:
        raise Unfit(f"a mapping of {', '.join(names)} whose values are {reason}") from None
    return dataclasses.replace(default, **given) if isinstance(default, kind) else kind(**given)


def _structure(text: str, in_commas: bool = False, typed: bool = False) -> Any:
    """Text as YAML has it: a list, a mapping, a number; the text itself where it is none.

    Args:
        in_commas: a list may stand without brackets.
        typed: its parts stay text, as a type will be asked for.
    """
    import yaml

    if in_commas and not text.lstrip().startswith(("[", "(", "{")):
        return [part.strip() if typed else _structure(part) for part in text.split(",") if part.strip()]
    brackets = f"[{text.strip()[1:-1]}]" if text.lstrip().startswith("(") else text
    try:
        return yaml.safe_load(brackets)
    except yaml.YAMLError:
        return text


def _described(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


def plain(value: Any, where: str) -> Any:
    """A value as files hold it: numbers, text, lists and mappings; :func:`read` takes it back.

    Args:
        where: of the option, for the message.

    Raises:
        VariantError: it holds something else.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name), where) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(plain(key, where)): plain(v, where) for key, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, where) for item in value), key=str)
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item, where) for item in value) if type(value) in (list, tuple) else list(value)
    raise VariantError(
        f"{where} is a {type(value).__name__}, which no file can hold: make it a number, a text, or a list of these"
    )
