"""Keywords of `train` as a command's flags: one parser checks both, so that names, values and messages are the same."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modules.benchmarks.base import Benchmark, benchmark
from modules.experiments.flags import make_parser
from modules.experiments.wishes import Wishes
from variants.errors import UserError
from variants.registry import BUILT_IN, resolve, spec_of
from variants.variant import BaseVariant

COMMANDS_ALONE = ("config", "jobs", "launch", "plan", "rows", "slurm", "table", "table_only", "version")
"""Flags that say what a command does beside training."""
NAMES = ("tasks", "seeds")
"""Flags that are comma lists on a command line, and lists here."""


def named(variant: str | type[BaseVariant]) -> tuple[str, type[BaseVariant]]:
    """(how files name a variant, its class).

    Args:
        variant: a name, ``module:Class``, ``FILE.py:Class``, or the class itself.

    Raises:
        UserError: it is no variant, or a class that nothing can find by its name.
    """
    if isinstance(variant, str):
        cls, spec = resolve(variant), variant
        if ":" in variant or variant in BUILT_IN:
            return spec, cls
        found = spec_of(cls)  # of a name that was registered here: other processes do not know it
        return (found if resolve_quietly(found) is cls else spec), cls
    if not (isinstance(variant, type) and issubclass(variant, BaseVariant)):
        raise UserError(f"a variant is a name or a class, such as 'lora' or LoRA, not {variant!r}")
    spec = spec_of(variant)
    if resolve_quietly(spec) is not variant:
        raise UserError(
            f"{variant.__qualname__} cannot be found by its name ({spec}): define it at the top of a cell or module, "
            "and pass the newest definition"
        )
    return spec, variant


def resolve_quietly(spec: str) -> type[BaseVariant] | None:
    """The class that a text names, or None."""
    try:
        return resolve(spec)
    except UserError:
        return None


def benchmark_of(name: str | Benchmark | None, own_data: bool = False) -> Benchmark:
    """The benchmark of a name, or itself; by default GLUE, and where there are own data that of those.

    Raises:
        UserError: there is none.
    """
    if isinstance(name, Benchmark):
        return name
    return benchmark(name or ("custom" if own_data else "glue"))


def wishes_of(spec: str, cls: type[BaseVariant], bench: Benchmark, given: Mapping[str, Any]) -> tuple[Wishes, Any]:
    """(what is to be trained, all flags) of keywords.

    Args:
        spec, cls: as `named` gives them.
        given: by the names of the command's flags; None leaves the choice to the recipe.

    Raises:
        UserError: a keyword is unknown, or a value of another kind, as the command says it.
    """
    for name in given:
        if name in COMMANDS_ALONE:
            raise UserError(f"{name} is a flag of the commands alone: train() trains here, one run after the other")
    lists = (*NAMES, *bench.data_flags)
    plain = {name: _plain(value, name in lists) for name, value in given.items() if value is not None}
    flags = make_parser(cls, bench).parse_object(plain)
    return dataclasses.replace(Wishes.of(flags, bench, cls), variant=spec), flags


@contextlib.contextmanager
def as_keywords() -> Iterator[None]:
    """What is raised inside names keywords: `lr`, not `--lr`."""
    try:
        yield
    except UserError as error:
        raise type(error)(re.sub(r"--(?!help)(?=[A-Za-z])", "", str(error))) from None


def _plain(value: Any, as_list: bool) -> Any:
    """A keyword's value as a flag has it, which may be a comma list."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if as_list and not isinstance(value, str):
        return ",".join(map(str, value if isinstance(value, Sequence) else [value]))
    return dict(value) if isinstance(value, Mapping) else value
