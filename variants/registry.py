"""Names of variants: built in, registered by a decorator, installed by a package, or ``module:Class``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import sys
import warnings
from importlib.metadata import entry_points
from pathlib import Path

from variants import listing
from variants.errors import VariantError
from variants.outside.files import classes_in, load_module, loaded_by_path
from variants.outside.places import definition
from variants.variant import BaseVariant, is_built_in, name_of

BUILT_IN = tuple(listing.CLASSES)
"""Names of this package's methods: each is the module ``variants.methods.<name>``."""
ENTRY_POINTS = "lora_variants"

_registered: dict[str, type[BaseVariant]] = {}
_specs: dict[type[BaseVariant], str] = {}  # how classes outside the registry were named


def register(name: str):
    """Class decorator: make a variant known as ``--variant name``.

    Raises:
        VariantError: a method of this package has the name.
    """

    def decorate(cls: type[BaseVariant]) -> type[BaseVariant]:
        if name in BUILT_IN and not is_built_in(cls):
            raise VariantError(f"{name!r} is a method of this project: register {cls.__name__} under another name")
        if name in _registered and _registered[name].__qualname__ != cls.__qualname__:
            warnings.warn(f"variant {name!r} is registered again, by {cls.__module__}", stacklevel=2)
        cls.name = name
        _registered[name] = cls
        return cls

    return decorate


def names() -> list[str]:
    """Every name that :func:`resolve` knows: built in, registered so far, installed by other packages."""
    return list(dict.fromkeys([*BUILT_IN, *_registered, *(e.name for e in entry_points(group=ENTRY_POINTS))]))


def resolve(spec: str) -> type[BaseVariant]:
    """The variant class that ``spec`` names: ``lora``, ``package.module:Class`` or ``path/to/file.py:Class``.

    Raises:
        VariantError: there is none; the message lists the nearest names.
    """
    if ":" in spec:
        return _load(spec)
    if spec in BUILT_IN:
        importlib.import_module(f"variants.methods.{spec}")
    if spec in _registered:
        return _registered[spec]
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name == spec:
            return _checked(entry.load(), spec)
    if spec.endswith(".py"):
        classes = classes_in(Path(spec).expanduser())
        example = f"{spec}:{classes[-1] if classes else 'Class'}"
        raise VariantError(f"{spec} is a file: name its class too, such as {example}")
    near = difflib.get_close_matches(spec, names(), n=3) or names()
    raise VariantError(f"unknown variant {spec!r}; did you mean {', '.join(near)}? (or package.module:Class)")


def _load(spec: str) -> type[BaseVariant]:
    where, _, attribute = spec.rpartition(":")
    if not (where and attribute):
        raise VariantError(f"{spec!r} names no variant: write package.module:Class or path/to/file.py:Class")
    module = load_module(where, f"variant {spec!r}")
    if not hasattr(module, attribute):
        kinds = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, BaseVariant)]
        classes = [cls.__name__ for cls in kinds if cls.__module__ == module.__name__]
        near = difflib.get_close_matches(attribute, classes, n=3) or classes
        raise VariantError(f"{where} has no {attribute!r}; it has {', '.join(near) or 'no variant'}")
    return _checked(getattr(module, attribute), spec)


def _checked(cls: object, spec: str) -> type[BaseVariant]:
    if not (isinstance(cls, type) and issubclass(cls, BaseVariant)):
        raise VariantError(f"{spec!r} is not a variant: it must be a subclass of variants.Variant")
    if "__dataclass_fields__" not in vars(cls):
        try:
            dataclasses.dataclass(cls)
        except (TypeError, ValueError) as error:
            raise VariantError(f"{definition(cls)}: {cls.__name__}: {error}") from error
    if ":" not in spec and cls.name == name_of(cls):  # an entry point's
        cls.name = spec
    _specs[cls] = spec
    return cls


def spec_of(cls: type[BaseVariant]) -> str:
    """The text by which :func:`resolve` finds the class, in another process too: for files that name their variant."""
    if cls in _specs:
        return _specs[cls]
    if cls.name in BUILT_IN and _registered.get(cls.name) is cls:
        return cls.name
    by_path = loaded_by_path(cls.__module__)
    return f"{sys.modules[cls.__module__].__file__ if by_path else cls.__module__}:{cls.__qualname__}"


def outline(spec: str) -> type[BaseVariant]:
    """The options of a variant, for ``--help``: a class with its fields and docstring, not always with its code."""
    return (listing.outline(spec) if spec in BUILT_IN else None) or resolve(spec)
