"""Names of variants: built in, registered by a decorator, installed by a package, or ``module:Class``."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import sys
import types
import typing
import warnings
from importlib.metadata import entry_points
from pathlib import Path

from variants.errors import VariantError
from variants.variant import BaseVariant, Variant

BUILT_IN = (
    *("lora", "adalora", "dora", "vera", "full", "head", "bitfit", "ft_top2"),
    *("adapter_h", "adapter_l", "adapter_p", "adapter_d", "prefix_embed", "prefix_layer", "prefix_tuning"),
)
"""Variants of this package: each is the module ``variants.methods.<name>``."""
ENTRY_POINTS = "lora_variants"

_registered: dict[str, type[BaseVariant]] = {}
_specs: dict[type[BaseVariant], str] = {}  # how classes outside the registry were named


def register(name: str):
    """Class decorator: make a variant known as ``--variant name``."""

    def decorate(cls: type[BaseVariant]) -> type[BaseVariant]:
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
    near = difflib.get_close_matches(spec, names(), n=3) or names()
    raise VariantError(f"unknown variant {spec!r}; did you mean {', '.join(near)}? (or package.module:Class)")


def _load(spec: str) -> type[BaseVariant]:
    where, _, attribute = spec.rpartition(":")
    try:
        if where.endswith(".py"):
            module = load_file(Path(where).resolve())
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(where)
    except (ImportError, OSError) as error:
        raise VariantError(f"cannot load variant {spec!r}: {error}") from error
    if not hasattr(module, attribute):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, BaseVariant)]
        near = difflib.get_close_matches(attribute, classes, n=3) or classes
        raise VariantError(f"{where} has no {attribute!r}; it has {', '.join(near) or 'no variant'}")
    return _checked(getattr(module, attribute), spec)


def load_file(path: Path) -> types.ModuleType:
    """The module in a file outside any package, under the file's name."""
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path):
        return sys.modules[path.stem]
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[path.stem] = module
    module_spec.loader.exec_module(module)
    return module


def _checked(cls: object, spec: str) -> type[BaseVariant]:
    if not (isinstance(cls, type) and issubclass(cls, BaseVariant)):
        raise VariantError(f"{spec!r} is not a variant: it must be a subclass of variants.Variant")
    if "__dataclass_fields__" not in vars(cls):
        dataclasses.dataclass(cls)
    cls.name = cls.name if "name" in vars(cls) else spec.rpartition(":")[2].lower()
    _specs[cls] = spec
    return cls


def spec_of(cls: type[BaseVariant]) -> str:
    """What :func:`resolve` finds the class by, in another process too: for files that name their variant."""
    if cls in _specs:
        return _specs[cls]
    return (
        cls.name
        if cls.name in BUILT_IN and _registered.get(cls.name) is cls
        else f"{cls.__module__}:{cls.__qualname__}"
    )


def outline(spec: str) -> type:
    """The options of a variant without its code, for ``--help``: built-in files are read, not imported.

    A built-in variant's dataclass is rebuilt from the annotated fields and the docstring in its source, which
    spares the 1.4 s that importing torch takes. Any other variant is resolved in full.
    """
    if spec not in BUILT_IN:
        return resolve(spec)
    tree = ast.parse((Path(__file__).parent / "methods" / f"{spec}.py").read_text(encoding="utf-8"))
    bases = {"Variant": Variant, "BaseVariant": BaseVariant}
    for node in tree.body:  # a built-in variant may extend another
        if isinstance(node, ast.ImportFrom) and (node.module or "").removeprefix("variants.methods.") in BUILT_IN:
            base = outline(node.module.removeprefix("variants.methods."))
            bases |= {base.__name__: base}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and bases.keys() & {b.id for b in node.bases if isinstance(b, ast.Name)}:
            fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
            node.body = [ast.Expr(ast.Constant(ast.get_docstring(node) or "")), *fields]
            node.decorator_list = []
            scope = {**vars(typing), "field": dataclasses.field, **bases, "__name__": __name__}
            fields_alone = ast.fix_missing_locations(ast.Module([node], []))
            exec(compile(fields_alone, spec, "exec", dont_inherit=True), scope)
            return dataclasses.dataclass(scope[node.name])
    return resolve(spec)
