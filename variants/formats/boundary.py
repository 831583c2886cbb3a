"""Where files from elsewhere come in: what they hold is of the right types and sizes, or one line says what is not.

Nothing behind this asks again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from variants.errors import UserError, VariantError, first_line, one_line, shown
from variants.outside.options import build as built
from variants.variant import BaseVariant
from variants.wrappers import wrapper_of

LONGEST = 2**63
"""No number of a file is larger: an integer above it is no size, and a float is infinite in every dtype before."""


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Whatever goes wrong inside, with data that somebody else wrote, becomes a VariantError of one line; a message
    with a name or a value out of a file, which may be of any length, is cut."""
    try:
        yield
    except UserError as error:
        if one_line(error) == str(error):
            raise
        raise type(error)(one_line(error)) from error
    except Exception as error:  # parsers and layers fail in as many ways as data can be wrong
        raise VariantError(one_line(f"{what}: {first_line(error)}")) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        VariantError: it is not JSON, or something other than an object.
    """
    with refusing(f"{path.parent} is damaged: {path.name} cannot be read"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise VariantError(f"{path.parent} is damaged: {path.name} holds {_kind(content)} and not an object")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        VariantError: it is damaged, or holds a type of number that is none of torch's.
    """
    with refusing(f"{path.parent} is damaged: {path.name} cannot be read"):
        return load_file(path)


def refuse_wrapped(where: Path, names: Iterable[str], model: nn.Module) -> None:
    """Raise VariantError where a wrapper that is none of the model's stands before names of a file: none would fit."""
    own = {name.partition(".")[0] for name, _ in model.named_children()}
    for name in names:
        if (wrapper := wrapper_of(name)) and name.partition(".")[0] not in own:
            raise VariantError(
                f"{where}: its names begin with {name.partition('.')[0]}., as {wrapper} calls them: "
                "save the model that is inside of it"
            )


def check(where: Path, found: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Whether the entries of a configuration are of their types; one that is absent is not looked at.

    Args:
        kinds: entry -> type, as in an annotation.

    Raises:
        VariantError: the first that is not.
    """
    for key, kind in kinds.items():
        if key in found and not fits(found[key], kind):
            raise VariantError(f"{where}: {key}={shown(found[key])} is not {_name(kind)}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a JSON file is of an annotated type; an annotation that is not known here takes any."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and _finite(value)
    if kind in (bool, str, dict, list):
        return isinstance(value, kind)
    if kind is None or kind is types.NoneType:
        return value is None
    if origin is typing.Literal:
        return any(value == each and type(value) is type(each) for each in inside)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in inside)
    if origin in (list, tuple):
        return isinstance(value, (list, tuple)) and all(fits(x, inside[0]) for x in value if inside and origin is list)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, inside[0]) and fits(v, inside[1]) for k, v in value.items())
    return True


def _finite(value: float) -> bool:
    return abs(value) < LONGEST and math.isfinite(value)


def build(where: Path, cls: type[BaseVariant], options: dict[str, Any], tensors: Collection[Tensor]) -> BaseVariant:
    """The variant that a file describes.

    Args:
        where: for messages.
        tensors: all of the file's, which bound the sizes that its options can mean.

    Raises:
        VariantError: an option is unknown, of another type, or larger than the file's tensors tell.
    """
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    for own in (options, *_per_layer(where, options)):
        if unknown := [key for key in own if key not in fields]:
            raise VariantError(f"{where}: {cls.name} has other options than the file: {shown(unknown[0])}")
    try:
        variant = built(cls, options)
    except VariantError as error:
        raise VariantError(f"{where}: {error}") from error
    largest = max((n for tensor in tensors for n in tensor.shape), default=0)
    for own in (vars(variant), *getattr(variant, "per_layer", {}).values()):
        size = own.get(cls.size, 0)
        if isinstance(size, (int, float)) and not 0 <= size <= 16 * largest + 1024:
            raise VariantError(f"{where}: {cls.size}={size} is not of the file's tensors, none wider than {largest}")
    return variant


def _per_layer(where: Path, options: dict[str, Any]) -> list[Any]:
    own = options.get("per_layer", {})
    if not isinstance(own, dict) or not all(isinstance(each, dict) for each in own.values()):
        raise VariantError(f"{where}: per_layer={shown(own)} is not a map from patterns to options")
    return list(own.values())


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind)
