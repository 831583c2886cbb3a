"""Where files from elsewhere come in: what they hold is of the right types and sizes, or one line says what is not.

Nothing behind this asks again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from variants.errors import UserError, VariantError, first_line, one_line, shown
from variants.outside.options import build as built
from variants.schema import checked
from variants.variant import BaseVariant
from variants.wrappers import wrapper_of


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


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as hex digits. Raises VariantError where it cannot be read."""
    digest = hashlib.sha256()
    with refusing(f"{path} cannot be read"), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_wrapped(where: Path, names: Iterable[str], model: nn.Module) -> None:
    """Raise VariantError where a wrapper that is none of the model's stands before names of a file: none would fit."""
    children = {name for name, _ in model.named_children()}
    for name in names:
        first = name.partition(".")[0]
        if (wrapper := wrapper_of(name)) and first not in children:
            raise VariantError(
                f"{where}: its names begin with {first}., as {wrapper} calls them: save the model that is inside of it"
            )


def check(where: Path, found: Mapping[str, Any], kinds: type) -> None:
    """Whether the entries of a configuration are of their types; one that is absent is not looked at.

    Args:
        kinds: a TypedDict of the entries that are read (`variants.schema`).

    Raises:
        VariantError: the first that is not.
    """
    try:
        checked(kinds, found, str(where))
    except UserError as error:
        raise VariantError(str(error)) from None


def build(where: Path, cls: type[BaseVariant], options: dict[str, Any], tensors: Collection[Tensor]) -> BaseVariant:
    """The variant that a file describes.

    Args:
        where: for messages.
        tensors: all of the file's, which bound the sizes that its options can mean.

    Raises:
        VariantError: an option is unknown, of another type, or larger than the file's tensors tell.
    """
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    for given in (options, *_per_layer(where, options)):
        if unknown := [key for key in given if key not in fields]:
            raise VariantError(f"{where}: {cls.name} has other options than the file: {shown(unknown[0])}")
    try:
        variant = built(cls, options)
    except VariantError as error:
        raise VariantError(f"{where}: {error}") from error
    largest = max((n for tensor in tensors for n in tensor.shape), default=0)
    for chosen in (vars(variant), *getattr(variant, "per_layer", {}).values()):
        size = chosen.get(cls.size, 0)
        if isinstance(size, (int, float)) and not 0 <= size <= 16 * largest + 1024:
            raise VariantError(f"{where}: {cls.size}={size} is not of the file's tensors, none wider than {largest}")
    return variant


def _per_layer(where: Path, options: dict[str, Any]) -> list[Any]:
    given = options.get("per_layer", {})
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise VariantError(f"{where}: per_layer={shown(given)} is not a map from patterns to options")
    return list(given.values())


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
