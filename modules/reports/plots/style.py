"""Labels and marks of a section's rows, the same in all of its plots."""

from __future__ import annotations

from dataclasses import dataclass, replace

from modules.reports.plots.palette import SPARE, marks
from modules.reports.tables.section import Row, Section, natural

LINES = ("-", "--", "-.", ":")
FILLS = ("full", "none", "left", "bottom", "right", "top")
"""matplotlib's fill styles: of the groups of one method."""

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
        group: of the rows that differ from it in size alone; they share its colour, marker and fill.
        size: within the group, such as `r=8`; "" where the group has a single row.
        colour, marker: of the method; of the group where the section shows a single method.
        fill: of the group.
        line: matplotlib's line style.
    """

    label: str
    group: str
    size: str
    colour: str
    marker: str
    fill: str
    line: str

    def drawn(self) -> dict[str, str]:
        """matplotlib's arguments for a point of the row."""
        hollow = {"mfc": "white"} if self.fill == "none" else {"fillstyle": self.fill, "markerfacecoloralt": "white"}
        return {"marker": self.marker, "color": self.colour} | hollow


def styles(section: Section) -> list[Style]:
    """A style for each row of the section, in the order of its rows."""
    names = [names_of(row, section) for row in section.rows]
    of_group = dict(zip((group for group, _ in names), (row.variant for row in section.rows), strict=True))
    methods = marks(of_group.values())
    found, seen = [], dict.fromkeys(of_group, 0)
    for group, size in names:
        variant = of_group[group]
        place = [other for other, its in of_group.items() if its == variant].index(group)
        mark, fill = methods[variant], FILLS[place % len(FILLS)]
        if len(methods) == 1 and place:
            mark, fill = SPARE[(place - 1) % len(SPARE)], "full"
        line = LINES[(seen[group] + place) % len(LINES)]
        found.append(Style(f"{group} {size}".strip(), group, size, mark.colour, mark.marker, fill, line))
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
