"""The project's source files as their text says they are: imports, rooms, lengths, docstrings. Nothing is imported."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("variants", "modules", "paper_repro")
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Node = TypeVar("Node", bound=Hashable)


@dataclass(frozen=True)
class Import:
    """``source`` imports ``target``; both are dotted names of modules."""

    source: str
    target: str
    level: Literal["module", "function", "typing"]
    """When it is carried out: with the file, in a call, or never (under TYPE_CHECKING)."""


@cache
def files() -> dict[str, Path]:
    """Dotted name -> file, of every source file; a package has the name of its folder."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(name: str) -> ast.Module:
    """The syntax tree of a source file."""
    return ast.parse(files()[name].read_text(encoding="utf-8"))


@cache
def imports(name: str) -> tuple[Import, ...]:
    """All imports of a source file, of the project's modules and of others."""
    return tuple(Import(name, target, level) for target, level in _walk(tree(name), name, "module"))


def _walk(node: ast.AST, name: str, level: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        inner = level
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = "function" if level == "module" else level
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inner = "typing"
        if isinstance(child, ast.Import):
            yield from ((alias.name, level) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((target, level) for target in _targets(child, name))
        yield from _walk(child, name, inner)


def _targets(node: ast.ImportFrom, name: str) -> Iterator[str]:
    """``from a import b`` is an import of a.b where that is a module, else of a."""
    base = node.module or ""
    if node.level:
        parts = name.split(".") if files()[name].name == "__init__.py" else name.split(".")[:-1]
        base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}"
        yield inner if inner in files() else base


def project_imports(*levels: str) -> list[Import]:
    """Imports of the project's modules by the project's modules, at these levels."""
    return [i for name in files() for i in imports(name) if i.target in files() and i.level in levels]


def room(name: str) -> str:
    """The folder of a module ("variants/sites"); each file at the top of a package is a room too ("variants/layer")."""
    path = files()[name].relative_to(ROOT)
    return str(path.with_suffix("") if len(path.parts) == 2 else path.parent)


def circles(edges: Mapping[Node, Iterable[Node]]) -> list[list[Node]]:
    """The groups of nodes that reach each other."""

    def reached(start: Node) -> set[Node]:
        seen: set[Node] = set()
        waiting = list(edges.get(start, ()))
        while waiting:
            if (node := waiting.pop()) not in seen:
                seen.add(node)
                waiting.extend(edges.get(node, ()))
        return seen

    reach = {node: reached(node) for node in edges}
    groups = {frozenset(n for n in reach[node] if node in reach.get(n, ())) for node in edges if node in reach[node]}
    return sorted(sorted(group, key=str) for group in groups)


def code_lines(path: Path) -> int:
    """Lines without imports, docstrings, comments and blanks."""
    text = path.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if is_text or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, node.end_lineno + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def undocumented() -> list[str]:
    """Public functions, classes and methods without a docstring; an overload's is its function's."""
    found = []
    for name in files():
        for node, path in _public(tree(name), name):
            overload = any(ast.unparse(each) == "overload" for each in node.decorator_list)
            if ast.get_docstring(node) is None and not overload:
                found.append(path)
    return found


def _public(node: ast.AST, path: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield child, f"{path}.{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{path}.{child.name}")
