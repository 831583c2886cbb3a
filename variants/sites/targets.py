"""Which linear maps a target names: presets and roles per architecture, names and globs for any model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from variants.errors import VariantError
from variants.sites.architectures import ROLES, head_parameters, model_type
from variants.sites.site import Site, is_linear

PRESETS = {"attn-qv": "q,v", "attn": "q,k,v,o", "all-linear": "*"}


def find_sites(model: nn.Module, target: str, layers: str = "") -> list[Site]:
    """The sites that ``target`` names, in the model's order, fused maps cut into slices.

    Args:
        target: comma list of presets, roles, names or globs; a name matches the end of a module's name.
        layers: such as ``0-5,11``: the first number in a module's name must be among them.

    Raises:
        VariantError: a part of the target matches nothing (the nearest names are listed), or slices overlap.
    """
    head = set(head_parameters(model))
    maps = {
        path: module
        for path, module in model.named_modules()
        if is_linear(module) and f"{path}.weight" not in head and path.rpartition(".")[2] != "adapter"
    }
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    maps = {path: m for path, m in maps.items() if id(m.weight) not in embeddings and ".adapter." not in path}
    sites: dict[str, Site] = {}
    for part in [p.strip() for p in target.split(",") if p.strip()]:
        found = [site for name in _expand(part) for site in _match(model, maps, name)]
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
    for a, b in zip(chosen, chosen[1:], strict=False):
        if a.module is b.module and b.start < a.stop:
            raise VariantError(f"target={target!r} adapts part of {a.module_path} twice: {a.path} and {b.path}")
    return chosen


def siblings(model: nn.Module) -> list[list[nn.Module]]:
    """The maps to queries, keys and values of each attention to its own input, which all three read."""
    roles = ROLES.get(model_type(model), {})
    if not all(isinstance(roles.get(role), str) for role in "qkv"):
        return []
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if any(_role_match(path, roles[role]) for role in "qkv") and not re.search("cross|EncDec", path):
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
    return ",".join(s.module_path if s.is_whole else f"{s.module_path}[{s.start}:{s.stop}]" for s in sites)


def _expand(part: str) -> list[str]:
    return PRESETS.get(part, part).split(",")


def _match(model: nn.Module, maps: dict[str, nn.Module], name: str) -> Iterator[Site]:
    roles = ROLES.get(model_type(model), {})
    if name == "*" and roles:
        for path, module in maps.items():
            if any(_role_match(path, role) for role in roles.values()):
                yield Site(module, path, path)
    elif name in roles:
        role = roles[name]
        for path, module in maps.items():
            if _role_match(path, role):
                yield (_slice(module, path, name, *role[1:]) if isinstance(role, tuple) else Site(module, path, path))
    else:
        pattern, _, span = name.partition("[")
        for path, module in maps.items():
            if fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}"):
                yield _explicit(module, path, span.rstrip("]")) if span else Site(module, path, path)


def _role_match(path: str, role: str | tuple[str, int, int]) -> bool:
    pattern = role if isinstance(role, str) else role[0]
    return re.search(rf"(?:^|\.)(?:{pattern})$", path) is not None


def _slice(module: nn.Module, path: str, label: str, index: int, parts: int) -> Site:
    width = Site(module, path, path).total_out // parts
    return Site(module, f"{path}.{label}", path, index * width, (index + 1) * width)


def _explicit(module: nn.Module, path: str, span: str) -> Site:
    """``c_attn[0:768]``: output features 0 to 767 of a fused map."""
    if not re.fullmatch(r"\d+:\d+", span):
        raise VariantError(f"a slice of a map is written name[start:stop], not [{span}]")
    start, stop = map(int, span.split(":"))
    if not start < stop <= Site(module, path, path).total_out:
        raise VariantError(f"[{span}] is not within the {Site(module, path, path).total_out} outputs of {path}")
    return Site(module, f"{path}.{start}:{stop}", path, start, stop)


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
    if part in PRESETS and model_type(model) not in ROLES:
        known = ", ".join(ROLES)
        return f"target={part!r} is known for {known} only; name the maps instead, such as {_names(maps, part)}"
    roles = ROLES.get(model_type(model), {})
    words = [*PRESETS, *roles] if roles else []
    return f"target={part!r} matches no linear map; the nearest are {_names(maps, part, words)}"


def _names(maps: dict[str, nn.Module], part: str, extra: list[str] | None = None) -> str:
    leaves = list(dict.fromkeys(path.rpartition(".")[2] for path in maps))
    names = [*leaves, *(extra or [])]
    near = difflib.get_close_matches(part, [*names, *maps], n=4, cutoff=0.5)
    return ", ".join(near or names[:8]) or "none: the model has no linear map"
