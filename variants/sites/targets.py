"""Which linear maps a target names: presets and roles per architecture, names and globs for any model."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from variants.errors import VariantError
from variants.sites.architectures import ARCHITECTURES, architecture_of, head_parameters
from variants.sites.family import Fused
from variants.sites.kinds import kind_of
from variants.sites.site import Site

PRESETS = {"attn-qv": "q,v", "attn": "q,k,v,o", "all-linear": "*"}
ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""What a map does in its block; which map that is, its family's row says."""


def find_sites(model: nn.Module, target: str, layers: str = "") -> list[Site]:
    """The sites that ``target`` names, in the model's order, fused maps cut into slices.

    Args:
        target: comma list of presets, roles, names or globs; a name matches the end of a module's name.
        layers: such as ``0-5,11``: the first number in a module's name must be among them.

    Raises:
        VariantError: a part of the target matches nothing (the nearest names are listed), or slices overlap.
    """
    maps = _maps(model)
    sites: dict[str, Site] = {}
    for part in [p.strip() for p in target.split(",") if p.strip()]:
        found = [site for name in PRESETS.get(part, part).split(",") for site in _match(model, maps, name)]
        if not found:
            raise VariantError(_no_match(part, model, maps))
        sites |= {site.path: site for site in found}
    if layers:
        wanted = numbers(layers)
        sites = {path: site for path, site in sites.items() if block_number(path) in wanted}
        if not sites:
            raise VariantError(f"layers={layers!r} leaves none of the blocks that target={target!r} matches")
    order = {path: i for i, path in enumerate(maps)}
    chosen = sorted(sites.values(), key=lambda s: (order[s.module_path], s.start))
    for path, own in itertools.groupby(chosen, key=lambda site: site.module_path):
        for a, b in itertools.combinations(own, 2):
            if a.rows.overlap(b.rows):
                raise VariantError(f"target={target!r} adapts part of {path} twice: {a.path} and {b.path}")
            if a.period != b.period:
                raise VariantError(f"target={target!r} cuts {path} in two ways: {a.path} and {b.path}")
    return chosen


def siblings(model: nn.Module) -> list[list[nn.Module]]:
    """The maps to queries, keys and values of each attention to its own input, which all three read.

    Where one fused map computes them, there is nothing to bring together.
    """
    family = architecture_of(model)
    if not all(role in family.maps for role in "qkv"):
        return []
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if any(_ends_with(path, family.maps[role]) for role in "qkv") and not re.search(family.cross, path):
            found.setdefault(path.rpartition(".")[0], []).append(module)
    return [group for group in found.values() if len(group) == 3]


def name_target(model: nn.Module, sites: Sequence[Site], explicit: bool = False) -> str:
    """A target that finds exactly the spans of ``sites``: a preset or roles where one does, else every name.

    Args:
        explicit: every name in any case, for a target that shall hold for other models too.
    """
    wanted = {site.span for site in sites}
    leaves = ",".join(dict.fromkeys(site.path.rpartition(".")[2] for site in sites))
    for target in () if explicit else (*PRESETS, leaves):
        try:
            if {site.span for site in find_sites(model, target)} == wanted:
                return target
        except VariantError:
            continue
    return ",".join(s.module_path if s.is_whole else f"{s.module_path}[{_span(s)}]" for s in sites)


def _maps(model: nn.Module) -> dict[str, nn.Module]:
    """The linear maps that can be adapted, by path: none of the head, none that is an embedding too."""
    head = set(head_parameters(model))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {
        path: module
        for path, module in model.named_modules()
        if (kind := kind_of(module)) is not None
        and f"{path}.weight" not in head
        and id(kind.parameter(module)) not in embeddings
        and "adapter" not in path.split(".")
    }


def _match(model: nn.Module, maps: dict[str, nn.Module], name: str) -> Iterator[Site]:
    family = architecture_of(model)
    if name == "*" and family.roles:
        yield from (Site(module, path, path) for path, module in maps.items() if block_number(path) is not None)
    elif name in family.maps:
        yield from (Site(m, path, path) for path, m in maps.items() if _ends_with(path, family.maps[name]))
    elif name in family.roles:
        fused = next(each for each in family.fused if name in each.roles)
        for path, module in maps.items():
            if _ends_with(path, fused.pattern):
                yield _part(module, path, name, fused, model)
    else:
        pattern, _, span = name.partition("[")
        for path, module in maps.items():
            if fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}"):
                yield _explicit(module, path, span.rstrip("]")) if span else Site(module, path, path)


def _ends_with(path: str, pattern: str) -> bool:
    return re.search(rf"(?:^|\.)(?:{pattern})$", path) is not None


def _part(module: nn.Module, path: str, role: str, fused: Fused, model: nn.Module) -> Site:
    """A role's part of a fused map.

    Raises:
        VariantError: the map is not as wide as the configuration says.
    """
    groups, shares = fused.layout(model.config)
    place, total = fused.roles.index(role), Site(module, path, path).total_out
    unit, rest = divmod(total, groups * sum(shares))
    if rest:
        raise VariantError(
            f"{path} has {total} outputs, which do not fall into {groups} times {sum(shares)} parts as the model's "
            f"configuration says: name the whole map instead of {role!r}"
        )
    start = unit * sum(shares[:place])
    return Site(module, f"{path}.{role}", path, start, start + unit * shares[place], unit * sum(shares))


def _span(site: Site) -> str:
    return f"{site.start}:{site.stop}" + ("" if site.rows.groups == 1 else f":{site.period}")


def _explicit(module: nn.Module, path: str, span: str) -> Site:
    """``c_attn[0:768]``: output features 0 to 767 of a fused map; ``[0:64:192]``: the first 64 of every 192."""
    if not re.fullmatch(r"\d+:\d+(:\d+)?", span):
        every = "or, of every period, name[start:stop:period]"
        raise VariantError(f"a slice of a map is written name[start:stop], not [{span}]; {every}")
    total = Site(module, path, path).total_out
    start, stop, period = (*map(int, span.split(":")), total)[:3]
    if not start < stop <= period <= total or total % period:
        raise VariantError(f"[{span}] is not within the {total} outputs of {path}")
    site = Site(module, path, path, start, stop, period)
    site.path = f"{path}.{_span(site)}"
    return site


def block_number(path: str) -> int | None:
    """The first number in a module's name, which counts the blocks."""
    number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", path)
    return int(number[1]) if number else None


def numbers(ranges: str) -> set[int]:
    """The blocks that an option such as ``0-5,11`` names."""
    found: set[int] = set()
    for part in ranges.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not ends:
            raise VariantError(f"layers={ranges!r} is not a list of numbers and ranges such as 0-5,11")
        found |= set(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    return found


def _no_match(part: str, model: nn.Module, maps: dict[str, nn.Module]) -> str:
    family = architecture_of(model)
    if not family.roles and (part in PRESETS or part in ROLES):
        known = ", ".join(ARCHITECTURES)
        return f"target={part!r} is known for {known} only; name the maps instead, such as {_names(maps, part)}"
    words = [*PRESETS, *family.roles] if family.roles else []
    return f"target={part!r} matches no linear map; the nearest are {_names(maps, part, words)}"


def _names(maps: dict[str, nn.Module], part: str, extra: list[str] | None = None) -> str:
    leaves = list(dict.fromkeys(path.rpartition(".")[2] for path in maps))
    names = [*leaves, *(extra or [])]
    near = difflib.get_close_matches(part, [*names, *maps], n=4, cutoff=0.5)
    return ", ".join(near or names[:8]) or "none: the model has no linear map"
