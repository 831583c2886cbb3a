"""What is said of a target that names nothing that can be adapted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from variants.sites.architectures import ARCHITECTURES, architecture_of
from variants.sites.candidates import CONV, Candidates, tensors


def matches(path: str, pattern: str) -> bool:
    """Whether a name or glob is the path's, or the path's end."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")


def ends_with(path: str, pattern: str) -> bool:
    """Whether a map has a name of the family's, a regular expression."""
    return re.search(rf"(?:^|\.)(?:{pattern})$", path) is not None


def covers(model: nn.Module, name: str, path: str) -> bool:
    """Whether a role, a name or a glob is of a map, or of experts, that may not be adapted."""
    maps = architecture_of(model).maps
    if name in maps:
        return ends_with(path, maps[name]) or (name in ("gate", "up", "down") and path in tensors(model))
    return name == "*" or matches(path, name)


def no_match(part: str, model: nn.Module, maps: Candidates, words: Iterable[str]) -> str:
    """Why a part of a target finds no map.

    Args:
        words: presets and roles, which are no names of maps.
    """
    family, name = architecture_of(model), part.partition("[")[0]
    if not family.roles and part in words and part != CONV:
        known = ", ".join(families())
        return f"target={part!r} is known for {known} only; name the maps instead, such as {_nearest(part, maps.free)}"
    nearest = f"the nearest are {_nearest(part, maps.free, [word for word in words if family.roles and word != part])}"
    return f"target={part!r} matches no linear map{_instead(name, model, maps)}; {nearest}"


def _instead(name: str, model: nn.Module, maps: Candidates) -> str:
    """What a name is of, if not of a map that can be adapted."""
    if path := next((path for path in maps.barred if covers(model, name, path)), None):
        return f" that can be adapted: {path} {maps.barred[path]}"
    for path, why in tensors(model).items():
        if covers(model, name, path) or matches(path.rpartition(".")[0], name):
            return f": {path} {why}"
    if path := next((path for path, _ in model.named_modules() if path and matches(path, name)), None):
        kind = type(model.get_submodule(path))
        return f": {path} is {'quantised, a' if 'quant' in kind.__module__ else 'a'} {kind.__name__}"
    if path := next((path for path, _ in model.named_parameters() if matches(path, name)), None):
        return f": {path} is a parameter"
    return ""


def nearest(name: str, names: Iterable[str], count: int = 4) -> str:
    """The names most like ``name``, the most like it first; the first few where none is."""
    names = list(dict.fromkeys(names))
    return ", ".join(difflib.get_close_matches(name, names, n=count, cutoff=0.5) or names[: 2 * count])


def families(**facts: bool) -> list[str]:
    """The first name of each family of the table, of those alone for which these facts hold."""
    rows = dict.fromkeys(
        row.names[0] for row in ARCHITECTURES.values() if all(getattr(row, k) == v for k, v in facts.items())
    )
    return list(rows)


def _nearest(part: str, maps: Iterable[str], words: Iterable[str] = ()) -> str:
    leaves = dict.fromkeys(path.rpartition(".")[2] for path in maps)
    short = [*leaves, *words]
    found = difflib.get_close_matches(part, [*short, *(path for path in maps if "." in path)], n=4, cutoff=0.5)
    return ", ".join(dict.fromkeys(found)) or ", ".join(short[:8]) or "none: the model has no linear map"
