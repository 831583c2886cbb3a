"""A benchmark's table as CSV in long form: a line for each cell, with all that its score depends on."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

from modules.benchmarks.base import Benchmark, Column
from modules.reports.tables.cells import devices, peak_mb, printed, span, step_ms
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.section import Cell, Row, Section

CSV_COLUMNS = [
    "kind",
    "benchmark",
    "backbone",
    "backbone_source",
    "backbone_hash",
    "data",
    "data_source",
    "data_hash",
    "train_rows",
    "scored_rows",
    "protocol",
    "variant",
    "label",
    "options",
    "training",
    "overrides",
    "task",
    "metric",
    "value",
    "spread",
    "last_value",
    "last_spread",
    "seeds",
    "diverged",
    "truncated",
    "best_epochs",
    "init_from",
    "adapter_params",
    "head_params",
    "total_params",
    "step_ms",
    "peak_memory_mb",
    "device",
    "statistic",
    "mark",
    "source",
    "run_ids",
]


def to_csv(sections: Sequence[Section]) -> str:
    """A line for each cell, ours first and then the published ones, in the papers' units."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    shown: dict[int, tuple[PublishedRow, Benchmark]] = {}
    for section in sections:
        benchmark = section.benchmark
        writer.writerows(_csv_ours(row, cell, benchmark) for row in section.rows for cell in row.cells.values())
        shown |= {id(row): (row, benchmark) for row in section.published}
    for row, benchmark in shown.values():
        writer.writerows(_csv_published(row, c, benchmark) for c in benchmark.columns if c.key in row.scores)
    return out.getvalue()


def _csv_ours(row: Row, cell: Cell, benchmark: Benchmark) -> dict:
    run, runs = cell.runs[0], cell.runs
    place = {
        "backbone": run.backbone["name"],
        "backbone_source": run.backbone["source"],
        "backbone_hash": run.backbone["hash"],
        "data": run.data["name"],
        "data_source": run.data["source"],
        "data_hash": run.data["hash"],
        "train_rows": run.data["sizes"].get("train", ""),
        "scored_rows": benchmark.scored_rows(run.data["sizes"]),
    }
    made = {
        "protocol": row.protocol,
        "variant": row.variant,
        "label": row.label,
        "options": json.dumps(run.variant_config, sort_keys=True),
        "training": json.dumps(run.training, sort_keys=True),
        "overrides": json.dumps(run.overrides, sort_keys=True),
        "init_from": run.init_from["task"] if run.init_from else "",
    }
    score = {
        "task": cell.task,
        "metric": cell.metric,
        "value": _number(cell.centre()),
        "spread": _number(cell.spread()),
        "last_value": "" if cell.column.metric else _number(cell.centre("last")),
        "last_spread": "" if cell.column.metric else _number(cell.spread("last")),
        "seeds": " ".join(str(run.seed) for run in runs),
        "diverged": cell.diverged(),
        "truncated": cell.truncated,
        "best_epochs": " ".join(str((run.test or run.best)["epoch"]) for run in runs),
        "statistic": f"{benchmark.statistic} over seeds, " + ("scored epoch" if cell.column.metric else "best epoch"),
        "run_ids": " ".join(run.id for run in runs),
    }
    cost = {
        "adapter_params": span([run.parameters["adapter"] for run in runs], str),
        "head_params": span([run.parameters["head"] for run in runs], str),
        "total_params": span([run.parameters["total"] for run in runs], str),
        "step_ms": step_ms(runs),
        "peak_memory_mb": peak_mb(runs),
        "device": devices(runs),
    }
    return {"kind": "ours", "benchmark": benchmark.name, **place, **made, **score, **cost}


def _csv_published(row: PublishedRow, column: Column, benchmark: Benchmark) -> dict:
    key = column.key
    return {
        "kind": "published",
        "benchmark": benchmark.name,
        "backbone": row.model,
        "variant": row.variant,
        "label": row.method,
        "options": json.dumps(dict(row.options), sort_keys=True),
        "task": column.task,
        "metric": row.metrics[key],
        "value": printed(row.scores[key]),
        "spread": row.spread.get(key, ""),
        "init_from": "mnli" if key in row.mnli_init else "",
        "adapter_params": row.params,
        "statistic": row.statistic,
        "mark": row.mark,
        "source": row.source + (f" (arXiv:{row.arxiv})" if row.arxiv else ""),
    }


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"
