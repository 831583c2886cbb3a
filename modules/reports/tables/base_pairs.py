"""Rows that differ in how the frozen base is kept, and in nothing else: QLoRA's question (its Table 3)."""

from __future__ import annotations

from modules.reports.tables.section import Row, Section
from modules.runs.labels import as_text

SETTING = "quantise"
_NO_SETTINGS = (SETTING, "seed", "seeds")


def base_pairs(section: Section) -> list[tuple[int, int]]:
    """Positions of a row on a base in few bits and of the row on the same base as it is, for each that has one."""
    dense = {_settings(row): number for number, row in enumerate(section.rows) if not scheme(row)}
    packed = [(number, _settings(row)) for number, row in enumerate(section.rows) if scheme(row)]
    return [(number, dense[settings]) for number, settings in packed if settings in dense]


def scheme(row: Row) -> str:
    """How the row's base is kept (`variants.schemes`); "" of one as it is."""
    return str(row.runs[0].training.get(SETTING) or "")


def _settings(row: Row) -> str:
    """All settings of a row but for the base's, as one text: those of each task's first run, as they are one for all."""
    first = [(task, runs[0]) for task, runs in row.by_task.items()]
    return as_text(
        [
            [
                *(task, run.variant, run.protocol, run.variant_config, run.trainer, run.data["hash"]),
                {key: value for key, value in run.training.items() if key not in _NO_SETTINGS and value is not None},
            ]
            for task, run in first
        ]
    )
