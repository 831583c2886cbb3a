"""The built-in methods as their files declare them, read without importing torch: names, classes and options.

The folder's listing is the list: a file of ``variants/methods`` that registers a class under its own name is a method.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

from variants.variant import METHODS, BaseVariant, Variant


def _class_in(file: Path) -> str | None:
    """Name of the class that a file registers under the file's name, or None."""
    declaration = rf'^@register\("{file.stem}"\).*?^class (\w+)'
    found = re.search(declaration, file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return found and found[1]


CLASSES: dict[str, str] = {file.stem: name for file in sorted(METHODS.glob("*.py")) if (name := _class_in(file))}
"""Class name by method name, in alphabetical order; the class stands in ``variants.methods.<method name>``."""


def outline(method: str) -> type[BaseVariant] | None:
    """A built-in method's dataclass with its fields and docstring and without its code, for ``--help``.

    Importing the method would import torch, which takes longer than all else that ``--help`` does.

    Returns:
        None where the source says more than literals can: then the class must be imported.
    """
    tree = ast.parse((METHODS / f"{method}.py").read_text(encoding="utf-8"))
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == CLASSES[method])
    try:
        bases = tuple(_base(ast.unparse(base)) for base in node.bases)
        fields = [_field(statement) for statement in node.body if isinstance(statement, ast.AnnAssign)]
        described = {"__doc__": ast.get_docstring(node, clean=False), "name": method}
        described["__module__"] = __name__
        cls = dataclasses.make_dataclass(node.name, fields, bases=bases, namespace=described)
        cls.__module__ = typing.__name__  # where Literal and Any are found, which the annotations name as text
        typing.get_type_hints(cls)
    except (LookupError, NameError, TypeError, ValueError):
        return None
    return cls


def _base(name: str) -> type[BaseVariant]:
    """The class that a method extends: an interface, or another built-in method's outline."""
    if name in ("BaseVariant", "Variant"):
        return {"BaseVariant": BaseVariant, "Variant": Variant}[name]
    parents = {cls: method for method, cls in CLASSES.items()}
    if (parent := outline(parents[name])) is None:
        raise LookupError(name)
    return parent


def _field(statement: ast.AnnAssign) -> tuple[str, str, Any]:
    """(name, annotation as text, default) of a field; ValueError where the default is no literal."""
    name, annotation = ast.unparse(statement.target), ast.unparse(statement.annotation)
    if statement.value is None or "ClassVar" in annotation:
        raise ValueError(f"{name} is not a field with a default")
    return name, annotation, ast.literal_eval(statement.value)
