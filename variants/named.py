"""Variants that files name. A file is data: no code is loaded at its word, only at that of who reads it.

Like ``registry.py``, this imports no torch.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from variants import registry
from variants.errors import VariantError
from variants.outside.files import code_hash, module_name
from variants.variant import BaseVariant


def known(spec: str) -> type[BaseVariant] | None:
    """The class that ``spec`` names, where that takes no code from elsewhere: built in, registered, installed by a
    package, or in a module that this process has loaded already; else None."""
    if ":" not in spec:
        return registry.resolve(spec) if spec in registry.names() else None
    where, _, attribute = spec.rpartition(":")
    module = sys.modules.get(module_name(Path(where)) if where.endswith(".py") else where)
    cls = vars(module).get(attribute) if module else None
    return registry.resolve(spec) if isinstance(cls, type) and issubclass(cls, BaseVariant) else None


def named_in(
    file: str | Path,
    spec: str,
    code: str | None = None,
    given: str | type[BaseVariant] | None = None,
    strict: bool = False,
) -> type[BaseVariant]:
    """The class of the variant that a file names.

    Args:
        file: for messages.
        spec: how the file names it.
        code: hash of the source that it was trained with (:func:`code_hash`), where the file holds it.
        given: the class, or what names it (``FILE.py:Class``), as the caller says; its code may be loaded.
        strict: refuse code that has changed since, instead of warning.

    Raises:
        VariantError: the variant is not known and not given, is another one, or (strict) its code has changed.
    """
    cls = registry.resolve(given) if isinstance(given, str) else given or known(spec)
    if cls is None:
        if ":" not in spec:
            registry.resolve(spec)  # says which names are near
        raise VariantError(
            f"a file brings no code, and {file} names the variant {spec!r}: if you trust that code, name it yourself: "
            "--variant FILE.py:CLASS, or variant= in Python"
        )
    own, wanted = registry.spec_of(cls), spec.rpartition(":")[2]
    if given is not None and wanted not in (own.rpartition(":")[2], cls.name):
        raise VariantError(f"{file} holds the variant {spec!r}, not {own!r}")
    now = code_hash(cls)
    if code and now and code != now:
        message = f"{file}: the code of {spec} is not what it was trained with (hash {code}, now {now})"
        if strict:
            raise VariantError(message)
        warnings.warn(message, stacklevel=3)
    return cls
