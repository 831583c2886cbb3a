"""Rank studies: LoRA's rows of several r and targets, as a grid of ranks and matrices (LoRA, Tables 5 and 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modules.benchmarks.base import Column
from modules.reports.tables.cells import adapter_text, score_text, with_spread
from modules.reports.tables.pairs import SETTING, scheme
from modules.reports.tables.section import Row, Section

NAMES = {"attn-qv": "q,v", "attn": "q,k,v,o"}
"""Presets of targets and the matrices that they stand for."""
ORDER = ("q", "k", "v", "o", "q,k", "q,v", "q,k,v,o", "up,down", "all-linear")
"""The papers' order of matrices."""
LEVEL = "full"
"""The variant without a rank that a study is held against."""


@dataclass(frozen=True)
class RankStudy:
    """The rows of one protocol by (target, r), and the columns that all of them fill.

    Attributes:
        base: how the frozen base is kept (`variants.schemes`); "" as it is.
        levels: rows of full fine-tuning, on the base as it is, that were trained in the same way otherwise.
    """

    protocol: str
    rows: Mapping[tuple[str, int], tuple[Row, ...]]
    columns: tuple[Column, ...]
    base: str = ""
    levels: tuple[Row, ...] = ()

    @property
    def targets(self) -> list[str]:
        """In the papers' order; others follow by name."""
        return sorted({target for target, _ in self.rows}, key=_place)

    @property
    def ranks(self) -> list[int]:
        """In rising order."""
        return sorted({r for _, r in self.rows})


def _place(target: str) -> tuple[int, str]:
    return (ORDER.index(target) if target in ORDER else len(ORDER), target)


def target_name(target: str) -> str:
    """`attn-qv` and `v,q` are q,v: the matrices in the papers' order."""
    name = NAMES.get(target, target)
    parts = [part.strip() for part in name.split(",")]
    return ",".join(sorted(parts, key="qkvo".index)) if set(parts) <= set("qkvo") else name


def find(section: Section) -> list[RankStudy]:
    """The section's rank studies.

    A study is LoRA's rows of one protocol that were trained in the same way but for the learning rate, with at least
    two targets, two ranks and four configurations.
    """
    studies = []
    groups: dict[tuple, list[Row]] = {}
    for row in section.rows:
        if row.variant == "lora" and _where(row):
            groups.setdefault((row.protocol, _trained(row)), []).append(row)
    for (protocol, trained), lora in groups.items():
        places: dict[tuple[str, int], list[Row]] = {}
        for row in lora:
            places.setdefault(_where(row), []).append(row)
        columns = tuple(c for c in section.benchmark.columns if all(c.key in row.cells for row in lora))
        levels = [
            row
            for row in section.rows
            if row.variant == LEVEL and row.protocol == protocol and _on_any(_trained(row)) == _on_any(trained)
            if all(column.key in row.cells for column in columns)
        ]
        rows = {place: tuple(rows) for place, rows in places.items()}
        study = RankStudy(protocol, rows, columns, scheme(lora[0]), tuple(levels))
        if len(study.targets) > 1 and len(study.ranks) > 1 and len(places) > 3 and columns:
            studies.append(study)
    return studies


def _trained(row: Row) -> frozenset:
    """The training settings of its runs, except for the learning rate."""
    return frozenset((name, str(value)) for run in row.runs for name, value in run.training.items() if name != "lr")


def _on_any(trained: frozenset) -> frozenset:
    """Training settings without how the base is kept."""
    return frozenset((name, value) for name, value in trained if name != SETTING)


def _where(row: Row) -> tuple[str, int] | None:
    """(target, r) of a row; None where its runs differ in them."""
    found = [(run.variant_config.get("target"), run.variant_config.get("r")) for run in row.runs]
    target, r = found[0]
    known = isinstance(target, str) and isinstance(r, (int, float)) and target and r
    return (target_name(target), int(r)) if known and found.count(found[0]) == len(found) else None


def grid(study: RankStudy, section: Section) -> list[list[str]]:
    """Lines of cells, the first of which is the heading: a block of targets x ranks for each column and for their mean.

    Cells are written as in the section's table; two configurations with the same target and rank share a cell, with a
    slash between them.
    """
    counted = {len(cell.runs) for rows in study.rows.values() for row in rows for cell in row.cells.values()}
    lines = [["", "Matrices", *(f"r={r}" for r in study.ranks)]]

    def block(title: str, write: Callable[[Row], str]) -> None:
        for target in study.targets:
            texts = [" / ".join(write(row) for row in study.rows.get((target, r), ())) for r in study.ranks]
            lines.append([title, target, *texts])

    for column in study.columns:
        block(column.title, lambda row, key=column.key: score_text(row.cells[key], len(counted) > 1))
    if section.benchmark.average and len(study.columns) > 1:
        block("Mean", lambda row: mean_text(row, study.columns))
    block("Adapter", adapter_text)
    return lines


def about(study: RankStudy) -> str:
    """What a reader must know beside the grid: the base, and the level of full fine-tuning; "" where neither is."""
    words = [f"The base is in {study.base}."] if study.base else []
    for row in study.levels:
        name = f"{LEVEL} {row.label}".strip()
        figures = [f"{column.title} {score_text(row.cells[column.key])}" for column in study.columns]
        words.append(f"Level without a rank, on the base as it is: {name}, {', '.join(figures)}.")
    return " ".join(words)


def mean_text(row: Row, columns: Sequence[Column]) -> str:
    """Mean over columns and its spread over seeds, written as a cell."""
    centre, spread = row.mean(columns)
    return "no score" if centre != centre else with_spread(centre, spread)
