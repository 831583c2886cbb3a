"""Methods in files outside any package: loaded by path, each folder as a package of its own.

A file may be called ``random.py`` and two files may have one name: neither hides a module. A file may import those
beside it, by ``from .helper import f`` or by ``from helper import f``; two folders may each have a ``helper.py``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

from variants.errors import VariantError
from variants.outside.cells import cell_hash
from variants.outside.places import located

PREFIX = "_variant_folder_"
"""How the names of these packages begin."""


def load_file(path: Path, name: str | None = None) -> types.ModuleType:
    """The module in a file; it is run once, however often it is asked for.

    Args:
        name: of the module in ``sys.modules``; by default a private one, which depends on the path alone.
    """
    path = path.expanduser().resolve()
    name = name or module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_Loader(name, str(path)))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # the mended file is run anew
        raise
    return module


def load_module(where: str, what: str) -> types.ModuleType:
    """The module of a person's code: a file's path, ending in .py, or a name that Python finds here.

    Args:
        what: is asked for, for the message: variant 'my_file.py:Mine'.

    Raises:
        VariantError: it cannot be loaded, in one line with its place.
    """
    try:
        if where.endswith(".py"):
            return load_file(Path(where))
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    except OSError as error:
        raise VariantError(f"cannot load {what}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the person's code does
        raise VariantError(f"cannot load {what}: {located(error)}") from error


def module_name(path: Path) -> str:
    """The name under which :func:`load_file` keeps a file's module: private, and of its whole path."""
    path = path.expanduser().resolve()
    return f"{_package(path.parent)}.{path.stem.replace('.', '_')}"


def loaded_by_path(module: str) -> bool:
    """Whether a module's name is one that :func:`load_file` gives."""
    return module.startswith(PREFIX)


def sources(path: Path) -> list[Path]:
    """A file and the files beside it that it imports, those that these import included: what its code is."""
    found, todo = [], [path.resolve()]
    while todo:
        file = todo.pop()
        if file not in found:
            found.append(file)
            tree = ast.parse(file.read_bytes())
            todo += [file.with_name(f"{name}.py") for name in sorted(set(_imported(tree, file)))]
    return found


def code_hash(cls: type) -> str | None:
    """Hash of the code that defines a class from outside the project: editing a method makes another of it.

    Of a file that was loaded by its path the files beside it count that it imports; of a class in no file, as in a
    notebook, the code that it uses of its own module.
    """
    if cls.__module__.partition(".")[0] == "variants":
        return None
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if not file or not Path(file).is_file():  # a notebook, or what was typed in or piped
        return cell_hash(cls) if module else None
    first, *others = sources(Path(file)) if loaded_by_path(cls.__module__) else [Path(file)]
    digest = hashlib.sha256(first.read_bytes())
    for other in sorted(others):
        digest.update(other.name.encode() + other.read_bytes())
    return digest.hexdigest()[:12]


def classes_in(path: Path) -> list[str]:
    """Names of the classes that a file defines, as its text says; none where it cannot be read."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [node.name for node in body if isinstance(node, ast.ClassDef)]


def _package(folder: Path) -> str:
    """Name of the package that stands for a folder."""
    name = f"{PREFIX}{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        sys.modules[name] = importlib.util.module_from_spec(spec)
    return name


class _Finder:
    """Finds the files beside a file that has been loaded by its path."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, stem = name.rpartition(".")
        if not (package.startswith(PREFIX) and path and (file := Path(path[0]) / f"{stem}.py").is_file()):
            return None
        return importlib.util.spec_from_file_location(name, file, loader=_Loader(name, str(file)))


sys.meta_path.insert(0, _Finder)  # before Python's own, which finds these files too


class _Loader(SourceFileLoader):
    """Takes ``import helper`` for the file beside, and leaves no compiled files there."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = Path(self.get_filename(fullname))
        tree = ast.parse(self.get_data(str(path)), str(path))
        if loaded_by_path(fullname):
            tree = ast.fix_missing_locations(_Beside(path).visit(tree))
        return compile(tree, str(path), "exec", dont_inherit=True)


class _Beside(ast.NodeTransformer):
    """Imports of files beside a file, made relative."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def visit_Import(self, node: ast.Import) -> Any:
        parts = []
        for alias in node.names:
            beside = _is_beside(alias.name, self.path)
            made = ast.ImportFrom(None, [alias], 1) if beside else ast.Import([alias])
            parts.append(ast.copy_location(made, node))
        return parts

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and _is_beside(node.module, self.path):
            node.level = 1
        return node


def _is_beside(name: str, path: Path) -> bool:
    """Whether a top-level name is a file beside another; the standard library's names are its own."""
    return "." not in name and name not in sys.stdlib_module_names and path.with_name(f"{name}.py").is_file()


def _imported(tree: ast.AST, path: Path) -> Iterator[str]:
    """Names of the files beside a file that its text imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_beside(alias.name, path))
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                if path.with_name(f"{name}.py").is_file():
                    yield name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and _is_beside(node.module, path):
            yield node.module
