"""Which linear maps a target names: presets and roles per architecture, names and globs for any model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from torch import nn

from variants.errors import VariantError
from variants.sites.architectures import architecture_of
from variants.sites.candidates import CONV, HEAD, Candidates, candidates, tensors
from variants.sites.family import Architecture, Fused
from variants.sites.kinds.experts import ExpertMap, show, without_number
from variants.sites.misses import covers, ends_with, matches, no_match
from variants.sites.ranges import block_number, chosen_blocks, ranges
from variants.sites.site import Site

PRESETS = {"attn-qv": "q,v", "attn": "q,k,v,o,added", "attn+conv": "q,k,v,o,added,conv", "all-linear": "*"}
ROLES = ("q", "k", "v", "o", "added", "gate", "up", "down")
"""What a map does in its block; which map that is, its family's row says."""
EXPERTS = "experts"
"""The word that every target of experts has in it; as a whole target, all maps of all experts."""
WORDS = (*PRESETS, *ROLES, CONV, EXPERTS)


def find_sites(model: nn.Module, target: str, layers: str = "") -> list[Site]:
    """The sites that ``target`` names, in the model's order, fused maps cut into slices.

    Args:
        target: comma list of presets, roles, names or globs; a name matches the end of a module's name.
        layers: such as ``0-5,11``: the first number in a module's name must be among them.

    Raises:
        VariantError: a part of the target or of the layers matches nothing (the nearest names are listed), a name is
            of a map that cannot be adapted, or slices overlap.
    """
    if any(EXPERTS in part for part in _parts(target)):
        show(model)
    maps = candidates(model)
    wanted = ranges(layers) if layers else []
    if apart := architecture_of(model).apart:
        chosen_blocks(layers, (), type(model).__name__, apart)
    sites: dict[str, Site] = {}
    for part in _parts(target):
        found = [site for name in PRESETS.get(part, part).split(",") for site in _match(model, maps, name)]
        if not found or (part in PRESETS and part != "all-linear" and not architecture_of(model).roles):
            raise VariantError(no_match(part, model, maps, WORDS))
        if layers:
            found = [site for site in found if any(block_number(site.path) in each for each in wanted)]
        if not found:
            raise VariantError(f"layers={layers!r} leaves none of the blocks that target={part!r} matches")
        sites |= {site.path: site for site in found}
    chosen_blocks(layers, map(block_number, maps.free), type(model).__name__)
    for each, part in zip(wanted, layers.split(","), strict=False):
        if not any(block_number(path) in each for path in sites):
            raise VariantError(f"layers={layers!r}: target={target!r} has no map in {part.strip()}")
    order = {path: i for i, path in enumerate(maps.free)}
    chosen = sorted(sites.values(), key=lambda s: (order[s.module_path], s.start))
    for path, own in itertools.groupby(chosen, key=lambda site: site.module_path):
        for a, b in itertools.combinations(own, 2):
            if a.rows.overlap(b.rows):
                raise VariantError(f"target={target!r} adapts part of {path} twice: {a.path} and {b.path}")
            if a.period != b.period:
                raise VariantError(f"target={target!r} cuts {path} in two ways: {a.path} and {b.path}")
    family = architecture_of(model)
    for site in chosen:
        site.role = _role(family, site)
    return chosen


def _role(family: Architecture, site: Site) -> str:
    """The role that a site's family gives it; "" where it gives none, or several to a fused map."""
    if site.is_whole:
        return next((role for role, name in family.maps.items() if ends_with(site.module_path, name)), "")
    last = site.path.rpartition(".")[2]
    return last if last in family.roles else ""


def left_out(model: nn.Module, target: str) -> dict[str, str]:
    """Maps that a preset or a glob of ``target`` covers and leaves out, by path -> why; of experts, the parameters."""
    if not target:
        return {}
    maps = candidates(model)
    chosen = {site.module_path for site in find_sites(model, target)}
    found: dict[str, str] = {}
    for name in [name for part in _parts(target) for name in PRESETS.get(part, part).split(",")]:
        reasons = maps.barred | (maps.spared if name == "*" else tensors(model))
        found |= {path: why for path, why in reasons.items() if path not in chosen and covers(model, name, path)}
    return found


def in_one_line(reasons: dict[str, str]) -> str:
    """What :func:`left_out` gives, blocks together: ``lm_head is the output embedding; ...``."""
    names: dict[str, str] = {}
    for path, why in reasons.items():
        names[re.sub(r"(?<=\.)\d+(?=\.)", "*", path)] = why
    return "; ".join(f"{name} {why}" for name, why in names.items())


def siblings(model: nn.Module) -> list[list[nn.Module]]:
    """The maps to queries, keys and values of each attention to its own input, which all three read.

    Where one fused map computes them, there is nothing to bring together.
    """
    family = architecture_of(model)
    if not all(role in family.maps for role in "qkv"):
        return []
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if any(ends_with(path, family.maps[role]) for role in "qkv") and not re.search(family.cross, path):
            found.setdefault(path.rpartition(".")[0], []).append(module)
    return [group for group in found.values() if len(group) == 3]


def gated(model: nn.Module) -> list[list[nn.Module]]:
    """The two maps of each gated feed-forward layer that read its input: the gate, and what it gates.

    Where one fused map computes both, there is nothing to bring together.
    """
    family = architecture_of(model)
    if not all(role in family.maps for role in ("gate", "up")):
        return []
    found: dict[str, list[nn.Module]] = {}
    for path, module in model.named_modules():
        if any(ends_with(path, family.maps[role]) for role in ("gate", "up")):
            found.setdefault(path.rpartition(".")[0], []).append(module)
    return [group for group in found.values() if len(group) == 2]


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


def _parts(target: str) -> list[str]:
    if parts := [part.strip() for part in target.split(",") if part.strip()]:
        return parts
    raise VariantError(f"target={target!r} names nothing: choose {', '.join(PRESETS)}, or names of linear maps")


def _match(model: nn.Module, maps: Candidates, name: str) -> Iterator[Site]:
    family = architecture_of(model)
    if name == "*":
        yield from (Site(module, path, path) for path, module in maps.free.items() if path not in maps.spared)
    elif EXPERTS in name:  # of one parameter, or modules that are called so
        for path, module in maps.free.items():
            shown = isinstance(module, ExpertMap)
            if matches(path, name) or (shown and (name == EXPERTS or matches(without_number(path), name))):
                yield Site(module, path, path)
    elif name in family.maps:
        yield from (Site(m, path, path) for path, m in maps.inside.items() if ends_with(path, family.maps[name]))
    elif name == CONV:
        yield from (site for path, m in maps.free.items() if (site := Site(m, path, path)).window)
    elif name in family.roles:
        fused = next(each for each in family.fused if name in each.roles)
        for path, module in maps.inside.items():
            if ends_with(path, fused.pattern):
                yield _part(module, path, name, fused, model)
    else:
        pattern, _, span = name.partition("[")
        modules = {path: module for path, module in maps.free.items() if not isinstance(module, ExpertMap)}
        found = {path: module for path, module in modules.items() if matches(path, pattern)}
        for path, why in maps.barred.items():  # a glob or a preset leaves it out
            if found and why != HEAD and not set(pattern) & set("*?") and matches(path, pattern):
                raise VariantError(f"target={name!r} also names {path}, which {why}: name the others by longer names")
        for path, module in found.items():
            yield _explicit(module, path, span.rstrip("]")) if span else Site(module, path, path)


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
