"""Pairs of rows that are asked about by themselves: a method on a base in few bits and on the same base as it is, and a
method and LoRA of its size."""

from __future__ import annotations

from modules.reports.tables.rate_curves import REFERENCE, size_ratio
from modules.reports.tables.section import Row, Section
from modules.runs.labels import as_text

SETTING = "quantise"
_NO_SETTINGS = (SETTING, "seed", "seeds")
ALIKE = 2.0
"""How many times as many parameters a row may train as LoRA's, or the other way round, and count as of its size."""


def base_pairs(section: Section) -> list[tuple[int, int]]:
    """Positions of a row on a base in few bits and of the row on the same base as it is, for each that has one, where
    nothing else differs: QLoRA's question (its Table 3)."""
    dense = {_settings(row): number for number, row in enumerate(section.rows) if not scheme(row)}
    packed = [(number, _settings(row)) for number, row in enumerate(section.rows) if scheme(row)]
    return [(number, dense[settings]) for number, settings in packed if settings in dense]


def lora_pairs(section: Section) -> list[tuple[int, int]]:
    """Positions of each row of another method and of the row of LoRA that is nearest in trained parameters, on a base
    that is kept alike; only where one has at most `ALIKE` times as many as the other, and none where no row's size came
    from a budget (`compare.py --budget`)."""
    if not any(run.budget for row in section.rows for run in row.runs):
        return []
    loras = [number for number, row in enumerate(section.rows) if row.variant == REFERENCE]
    found = []
    for number, row in enumerate(section.rows):
        ratios = {k: _ratio(section.rows[k], row) for k in loras if scheme(section.rows[k]) == scheme(row)}
        alike = {k: ratio for k, ratio in ratios.items() if ratio <= ALIKE}
        if number not in loras and alike:
            found.append((number, min(alike, key=alike.get)))
    return found


def _ratio(*rows: Row) -> float:
    return size_ratio(*(max(run.parameters["adapter"] for run in row.runs) for row in rows))


def scheme(row: Row) -> str:
    """How the row's base is kept (`variants.schemes`); "" of one as it is."""
    return str(row.runs[0].training.get(SETTING) or "")


def _settings(row: Row) -> str:
    """All settings of a row but for the base's, as one text: those of each task's first run, one for all its runs."""
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
