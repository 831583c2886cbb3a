"""The papers' figures, read from `paper_repro/published/*.yaml` (the README there explains the keys)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from modules.documents import modified, read_yaml
from modules.reports.tables.published_files import (
    LatencyFile,
    Model,
    ParametersFile,
    PublishedRow,
    RankOptions,
    RatesFile,
    Score,
)
from variants.errors import UserError
from variants.schema import built, checked

__all__ = [
    "PublishedRow", "Score", "load_all", "load_latency", "load_models", "load_parameters", "load_published",
    "load_rates", "load_sizes", "load_table", "size_key",
]  # fmt: skip


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
    """The rows of all tables, in the order of file names and rows. Raises UserError naming file and row."""
    return [row for path in sorted(Path(folder).glob("*.yaml")) for row in _rows(path, modified(path))]


@lru_cache
def _rows(path: Path, _modified: int) -> tuple[PublishedRow, ...]:
    """Of one file: every table asks for all rows, and to check them takes longer than to read them."""
    table = _content(path)
    if table.get("benchmark") in ("parameters", "rates"):  # no scores: see load_parameters and load_rates
        return ()
    if table.get("benchmark") == "latency":
        table = _latency(load_latency(path), path.name)
    head, rows = {key: value for key, value in table.items() if key != "rows"}, _list(table.get("rows"), path.name)
    return tuple(_row(head, row, f"{path.name}, row {number}") for number, row in enumerate(rows, start=1))


def _list(rows: Any, where: str) -> list[Any]:
    if not isinstance(rows, list):
        raise UserError(f"{where}: 'rows' must be a list, and is {str(rows)[:60]!r}")
    return rows


def _content(path: Path) -> dict[str, Any]:
    """The mapping in a file, None or not; errors name the file without its folder."""
    return _parsed(path, modified(path))


@lru_cache
def _parsed(path: Path, _modified: int) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path.name}: expected keys and values")
    return content


def load_parameters(folder: str | Path) -> ParametersFile:
    """The printed counts of parameters. Raises UserError naming the place that is wrong."""
    path = Path(folder) / "parameters.yaml"
    return _parameters(path, modified(path))


@lru_cache
def _parameters(path: Path, _modified: int) -> ParametersFile:
    found = built(ParametersFile, _content(path), path.name)
    for number, row in enumerate(found.rows, start=1):
        if row.model not in found.models:
            raise UserError(f"{path.name}: rows: entry {number}: {row.model!r} is none of the models")
    return found


def load_rates(folder: str | Path) -> RatesFile:
    """The printed best learning rates beside LoRA's. Raises UserError naming the place that is wrong."""
    path = Path(folder) / "learning_rates.yaml"
    return built(RatesFile, _content(path), path.name)


def load_latency(path: Path) -> LatencyFile:
    """A table of times, with a time and a spread for each setting. Raises UserError naming what is wrong."""
    found = built(LatencyFile, _content(path), path.name)
    for number, row in enumerate(found.rows, start=1):
        if not len(row.ms) == len(row.spread) == len(found.settings):
            raise UserError(
                f"{path.name}: rows: entry {number} has not {len(found.settings)} times, one for each setting"
            )
        if not all(0 < ms < 1e9 for ms in row.ms):
            raise UserError(f"{path.name}: rows: entry {number}: times are positive")
    return found


def load_models(folder: str | Path) -> dict[str, Model]:
    """The published models by name: `class` and `config` give the shapes, `hub` where the weights are to be had."""
    return load_parameters(folder).models


def load_sizes(folder: str | Path) -> dict[tuple, dict[str, Any]]:
    """Options that give a printed number of parameters, by `size_key`, for rows whose table does not state them."""
    return {
        (source, row.model, row.variant, row.printed): row.options
        for row in load_parameters(folder).rows
        for source in (row.table, *row.also)
    }


def size_key(row: PublishedRow) -> tuple:
    """The key of a row in the answer of `load_sizes`."""
    return row.source, row.model, row.variant, row.params


def _latency(table: LatencyFile, where: str) -> dict[str, Any]:
    """A table of times in the form of the other tables: a column for each setting."""
    settings = {f"{s['batch']}x{s['length']}": s for s in table.settings}
    if len(settings) != len(table.settings):
        raise UserError(f"{where}: settings: two are alike")
    head = {key: getattr(table, key) for key in ("benchmark", "paper", "arxiv", "source", "model", "remarks")} | {
        "table": "lora-1",
        "split": table.device,
        "mark": "run",
        "params": None,
    }
    head |= {"statistic": f"{table.statistic}, ms", "protocol": None}
    head["metrics"] = {
        name: f"{s['batch']} rows of {s['length']} tokens, adapters of {s['parameters']}"
        for name, s in settings.items()
    }
    rows = []
    for row in table.rows:
        figures = {
            "scores": dict(zip(settings, row.ms, strict=True)),
            "spread": dict(zip(settings, row.spread, strict=True)),
        }
        slower = ", ".join(f"{value:g}%" for value in row.slowdown)
        more = {"setup": f"printed slowdown {slower}"} if slower else {}
        rows.append({"method": row.method, "variant": row.way.removesuffix(" merged"), **figures, **more})
    return head | {"rows": rows}


def _row(head: dict[str, Any], row: Any, where: str) -> PublishedRow:
    parts = [part.get("metrics", {}) if isinstance(part, dict) else part for part in (head, row)]
    if not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{where}: a row, and its metrics, are keys and values")
    result = built(PublishedRow, {**head, **row, "metrics": {**parts[0], **parts[1]}}, where)
    if result.benchmark == "rank":
        checked(RankOptions, result.options, f"{where}: options")
    if result.mark not in ("run", "copied"):
        raise UserError(f"{where}: mark is 'run' or 'copied', got {result.mark!r}")
    if nameless := sorted((set(result.scores) | set(result.spread)) - set(result.metrics)):
        raise UserError(f"{where}: {nameless[0]!r} has a score but no metric")
    return result
