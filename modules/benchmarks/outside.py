"""Benchmarks from outside the project: installed by a package, `module:Class`, or a class in a file."""

from __future__ import annotations

import difflib
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from modules.benchmarks.base import BENCHMARKS, Benchmark, benchmark
from variants.errors import UserError
from variants.outside.files import classes_in, load_module

ENTRY_POINTS = "lora_variants.benchmarks"
"""The group of entry points: a name -> `module:Class`."""

_loaded: dict[str, Benchmark] = {}


def names() -> list[str]:
    """The names of all benchmarks that are installed."""
    return list(dict.fromkeys([*BENCHMARKS, *(entry.name for entry in entry_points(group=ENTRY_POINTS))]))


def load(spec: str) -> Benchmark:
    """The object of a benchmark that is none of the project's.

    Args:
        spec: the name of an entry point, `package.module:Class`, or `path/to/file.py:Class`.

    Raises:
        UserError: there is none, its code fails, or it lacks a part of the interface.
    """
    if spec not in _loaded:
        _loaded[spec] = _checked(_class(spec), spec)
    return _loaded[spec]


def known(spec: str) -> Benchmark | None:
    """The benchmark that a file names, where that takes no code from elsewhere: the project's, installed by a package,
    or loaded in this process already; else None. A file is data: no code is loaded at its word."""
    if ":" in spec and spec not in _loaded:
        return None
    try:
        return benchmark(spec)
    except UserError:
        return None


def _class(spec: str) -> Any:
    if ":" not in spec:
        found = [entry for entry in entry_points(group=ENTRY_POINTS) if entry.name == spec]
        if not found:
            if spec.endswith(".py"):
                classes = classes_in(Path(spec).expanduser()) or ["Class"]
                raise UserError(f"{spec} is a file: name its class too, such as {spec}:{classes[-1]}")
            near = difflib.get_close_matches(spec, names(), n=3) or names()
            raise UserError(f"unknown benchmark {spec!r}; did you mean {', '.join(near)}? (or file.py:Class)")
        spec = found[0].value
    where, _, attribute = spec.rpartition(":")
    module = load_module(where, f"benchmark {spec!r}")
    if not hasattr(module, attribute):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and issubclass(v, Benchmark)]
        raise UserError(f"{where} has no {attribute!r}; it has {', '.join(classes) or 'no benchmark'}")
    return getattr(module, attribute)


def _checked(cls: Any, spec: str) -> Benchmark:
    """The object of a class, which knows by what it was found."""
    if isinstance(cls, Benchmark):
        cls = type(cls)
    if not (isinstance(cls, type) and issubclass(cls, Benchmark)):
        raise UserError(f"{spec!r} is no benchmark: it must be a subclass of modules.benchmarks.text.TextBenchmark")
    if lacking := [name for name in ("name", "tasks") if not hasattr(cls, name)]:
        raise UserError(f"{spec}: {cls.__name__} has no {lacking[0]!r}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(cls.name)) or cls.name in BENCHMARKS:
        raise UserError(
            f"{spec}: the name {cls.name!r} is taken or no name: lower-case letters, digits and _, and none of "
            f"{', '.join(BENCHMARKS)}"
        )
    found = cls()
    found.spec, found.given = spec, {"benchmark": spec}
    if isinstance(found.tasks, (tuple, list)):
        found.tasks = {task.name: task for task in found.tasks}
    if wrong := [name for name in found.tasks if not re.fullmatch(r"[a-z][a-z0-9_]*", name)]:
        raise UserError(f"{spec}: the task {wrong[0]!r}: names are of lower-case letters, digits and _")
    return found
