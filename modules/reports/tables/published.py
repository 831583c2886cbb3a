"""The papers' figures, read from `paper_repro/published/*.yaml` (the README there explains the keys)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from variants.errors import UserError

Score = float | list[float]
"""A printed score, or the two of a cell such as matched / mismatched."""


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of a printed table, with all that its scores depend on.

    Attributes:
        table: its name as a value of --table, such as lora-2.
        params: trained parameters as printed; None where the table has none.
        mark: "run" by the paper, or "copied" there from earlier work.
        protocol: the recipe whose runs belong to the row; None where we do not have it.
        mnli_init: columns whose runs start from MNLI.
        repeats: the table that has the same scores already.
    """

    benchmark: str
    table: str
    paper: str
    arxiv: str | None
    source: str
    split: str
    statistic: str
    metrics: Mapping[str, str]
    model: str
    method: str
    variant: str | None
    params: str | None
    scores: Mapping[str, Score]
    average: float | None = None
    mark: str
    spread: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: str | None = "paper"
    mnli_init: tuple[str, ...] = ()
    setup: str | None = None
    repeats: str | None = None
    caution: str | None = None
    remarks: tuple[str, ...] = ()


def load_published(folder: str | Path, benchmark: str) -> list[PublishedRow]:
    """All rows of a benchmark, by its name; order and errors as in `load_all`."""
    return [row for row in load_all(folder) if row.benchmark == benchmark]


def load_table(folder: str | Path, name: str) -> list[PublishedRow]:
    """The rows of one table, such as lora-2. Raises UserError naming the tables that there are."""
    rows = load_all(folder)
    if not (found := [row for row in rows if row.table == name]):
        known = ", ".join(sorted({row.table for row in rows}))
        raise UserError(f"there is no table {name!r} among the published ones; there are: {known}")
    return found


def load_all(folder: str | Path) -> list[PublishedRow]:
    """The rows of all tables, in the order of file names and rows. Raises ValueError naming file and row."""
    rows = []
    for path in sorted(Path(folder).glob("*.yaml")):
        table = _content(path)
        if table.get("benchmark") == "parameters":  # counts, read by paper_repro/params.py
            continue
        if table.get("benchmark") == "latency":
            table = _latency(table)
        head = {key: value for key, value in table.items() if key != "rows"}
        for number, row in enumerate(table["rows"], start=1):
            rows.append(_row(head, row, f"{path.name}, row {number}"))
    return rows


def _content(path: Path) -> dict[str, Any]:
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache
def _parsed(path: Path, _modified: int) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where there is a compiled one
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def load_models(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The published models by name: `class` and `config` give the shapes, `hub` where the weights are to be had."""
    return _content(Path(folder) / "parameters.yaml")["models"]


def load_sizes(folder: str | Path) -> dict[tuple, dict[str, Any]]:
    """Options that give a printed number of parameters, by `size_key`, for rows whose table does not state them."""
    rows = _content(Path(folder) / "parameters.yaml")["rows"]
    return {
        (source, row["model"], row["variant"], row["printed"]): row.get("options", {})
        for row in rows
        for source in (row["table"], *row.get("also", ()))
    }


def size_key(row: PublishedRow) -> tuple:
    """The key of a row in the answer of `load_sizes`."""
    return row.source, row.model, row.variant, row.params


def _latency(table: dict[str, Any]) -> dict[str, Any]:
    """A table of times in the form of the other tables: a column for each setting."""
    settings = {f"{s['batch']}x{s['length']}": s for s in table["settings"]}
    keep = ("benchmark", "paper", "arxiv", "source", "model", "remarks")
    head = {key: table[key] for key in keep} | {
        "table": "lora-1",
        "split": table["device"],
        "mark": "run",
        "params": None,
    }
    head |= {"statistic": f"{table['statistic']}, ms", "protocol": None}
    head["metrics"] = {
        name: f"{s['batch']} rows of {s['length']} tokens, adapters of {s['parameters']}"
        for name, s in settings.items()
    }
    rows = []
    for row in table["rows"]:
        figures = {
            "scores": dict(zip(settings, row["ms"], strict=True)),
            "spread": dict(zip(settings, row["spread"], strict=True)),
        }
        slower = ", ".join(f"{value:g}%" for value in row.get("slowdown", ()))
        more = {"setup": f"printed slowdown {slower}"} if slower else {}
        variant = row["way"].removesuffix(" merged")
        rows.append({"method": row["method"], "variant": variant, **figures, **more})
    return head | {"rows": rows}


def _row(head: dict, row: dict, where: str) -> PublishedRow:
    merged = {**head, **row, "metrics": {**head["metrics"], **row.get("metrics", {})}}
    names = {item.name for item in fields(PublishedRow)}
    if unknown := sorted(set(merged) - names):
        raise ValueError(f"{where}: unknown key {unknown[0]!r}")
    for key in ("mnli_init", "remarks"):
        merged[key] = tuple(merged.get(key, ()))
    try:
        result = PublishedRow(**merged)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None
    if result.mark not in ("run", "copied"):
        raise ValueError(f"{where}: mark is 'run' or 'copied', got {result.mark!r}")
    if nameless := sorted((set(result.scores) | set(result.spread)) - set(result.metrics)):
        raise ValueError(f"{where}: {nameless[0]!r} has a score but no metric")
    return result
