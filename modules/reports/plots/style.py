"""Colours, markers and labels of a section's rows, the same in all of its plots."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from modules.reports.tables.section import Row, Section, natural

# Okabe and Ito's colours, which colour-blind readers can distinguish; a variant has the same colour in every plot.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#888888"
)  # fmt: skip
COLOURS = {"full": BLACK, "head": GREY, "lora": BLUE, "adalora": RED, "dora": ORANGE, "vera": GREEN, "bitfit": PURPLE}
MUTED = ("#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#DDCC77", "#117733")  # Tol's, for more variants
OTHERS = (SKY, *MUTED, PURPLE, ORANGE, GREEN, RED, BLUE, BLACK)
MARKERS = "osD^vP*X<>ph"
LINES = ("-", "--", "-.", ":")

SIZES = ("r", "p", "init_r")
"""Settings that are a variant's size."""
FOLLOW_THE_SIZE = ("alpha", "lr", "target_r", "budget")
"""Settings that usually differ where the size does: they name no group."""
MANY = 20
"""Rows beyond which only the largest size of each group has a curve."""


@dataclass(frozen=True)
class Style:
    """The label and the marks of a row.

    Attributes:
        label: of the row alone.
        group: of the rows that differ from it in size alone; they share its colour and marker.
        size: within the group, such as `r=8`; "" where the group has a single row.
        line: matplotlib's line style.
    """

    label: str
    group: str
    size: str
    colour: str
    marker: str
    line: str


def styles(section: Section) -> list[Style]:
    """A style for each row of the section, in the order of its rows."""
    names = [names_of(row, section) for row in section.rows]
    groups = list(dict.fromkeys(group for group, _ in names))
    first: dict[str, str] = {}
    for row, (group, _) in zip(section.rows, names, strict=True):
        first.setdefault(row.variant, group)
    taken = [COLOURS[variant] for variant in first if variant in COLOURS]
    spare = itertools.cycle([colour for colour in OTHERS if colour not in taken] or OTHERS)
    colours = {group: COLOURS.get(variant) or next(spare) for variant, group in first.items()}
    colours |= {group: next(spare) for group in groups if group not in colours}
    found, seen = [], dict.fromkeys(groups, 0)
    for group, size in names:
        number = groups.index(group)
        line = LINES[(seen[group] + number // len(COLOURS)) % len(LINES)]
        style = Style(f"{group} {size}".strip(), group, size, colours[group], MARKERS[number % len(MARKERS)], line)
        found.append(style)
        seen[group] += 1
    return found


def names_of(row: Row, section: Section) -> tuple[str, str]:
    """(group, size) of a row.

    The group is the variant with the settings that distinguish it from the variant's other rows; a size is r, p or
    init_r.
    """
    others = [_settings(other) for other in section.rows if other.variant == row.variant]
    settings = _settings(row)
    differing = [name for name in settings if any(other.get(name) != settings[name] for other in others)]
    sizes = [name for name in differing if name in SIZES]
    follow_the_size = FOLLOW_THE_SIZE if sizes else ()
    words = [
        settings[name] if name == "target" else f"{name}={settings[name]}"
        for name in differing
        if name not in (*sizes, *follow_the_size)
    ]
    protocols = {other.protocol for other in section.rows if other.variant == row.variant}
    words += [row.protocol] if len(protocols) > 1 else []
    return " ".join([row.variant, *words]), " ".join(f"{name}={settings[name]}" for name in sizes)


def _settings(row: Row) -> dict[str, str]:
    """The settings in a row's label."""
    return dict(word.partition("=")[::2] for word in row.label.split())


def rows_for_curves(section: Section) -> list[tuple[Row, Style]]:
    """The rows whose curves are drawn.

    Up to ten rows all of them; up to twenty the smallest and the largest size of each group; else the largest alone.
    """
    pairs = list(zip(section.rows, styles(section), strict=True))
    if len(pairs) <= 10:
        return pairs
    groups: dict[str, list[tuple[Row, Style]]] = {}
    for pair in pairs:
        groups.setdefault(pair[1].group, []).append(pair)
    ordered = [sorted(group, key=lambda pair: natural(pair[1].size)) for group in groups.values()]
    if len(pairs) > MANY:
        ends = [group[-1:] for group in ordered]
    else:
        ends = [group if len(group) < 3 else [group[0], group[-1]] for group in ordered]
    return [(row, replace(style, line=LINES[k])) for group in ends for k, (row, style) in enumerate(group)]
