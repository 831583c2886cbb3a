"""A published table with our rows as CSV: published scores, ours, and missing runs with their commands."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from modules.reports.papers.paper_lines import OurRows, is_subset
from modules.reports.papers.paper_rows import PaperRow, command, missing
from modules.reports.tables.cells import printed, span
from modules.reports.tables.section import Row, Section

CSV_COLUMNS = [
    "table", "row", "kind", "method", "backbone", "data", "variant", "label", "protocol", "params", "column", "value",
    "spread", "seeds", "statistic", "epoch", "mark", "source", "run_ids", "missing",
]  # fmt: skip


def paper_csv(rows: Sequence[PaperRow], ours: OurRows) -> str:
    """A line for each cell: published, ours, or missing, with the command that fills it."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for paper in rows:
        place = {"table": paper.published.table, "row": paper.number}
        writer.writerows(place | line for line in _csv_published(paper))
        for section, row in ours[paper.number]:
            writer.writerows(place | line for line in _csv_ours(section, row))
        empty = {"kind": "missing", "method": paper.published.method, "backbone": paper.published.model}
        for seeds, tasks in missing(paper, [row for _, row in ours[paper.number]]).items():
            for task in tasks:
                lacking = {"column": task, "seeds": " ".join(map(str, seeds)), "protocol": paper.published.protocol}
                writer.writerow(place | empty | lacking | {"missing": command(paper, [task], seeds)})
        if paper.reason:
            writer.writerow(place | empty | {"missing": paper.reason})
    return out.getvalue()


def _csv_published(paper: PaperRow) -> Iterable[dict]:
    row = paper.published
    common = {"kind": "published", "method": row.method, "backbone": row.model, "variant": row.variant or ""}
    common |= {"protocol": row.protocol or "", "params": row.params or "", "statistic": row.statistic, "mark": row.mark}
    common["source"] = f"{row.source} (arXiv:{row.arxiv})" if row.arxiv else row.source
    for key, score in row.scores.items():
        yield common | {"column": key, "value": printed(score), "spread": row.spread.get(key, "")}


def _csv_ours(section: Section, row: Row) -> Iterable[dict]:
    statistic = section.benchmark.statistic
    common = {"kind": "ours", "method": row.variant, "backbone": section.backbone["name"], "variant": row.variant}
    common |= {"data": section.data["name"], "label": row.label, "protocol": row.protocol, "statistic": statistic}
    for key, cell in row.cells.items():
        spread = cell.spread()
        yield common | {
            "params": span([run.parameters["adapter"] for run in cell.runs], str),
            "column": key,
            "value": "" if cell.fault() else f"{cell.centre():.2f}",
            "spread": "" if spread is None or cell.fault() else f"{spread:.2f}",
            "seeds": " ".join(str(run.seed) for run in cell.runs),
            "epoch": cell.runs[0].training.get("score_epoch", "best") if cell.column.metric else "best",
            "source": "subset of the official data" if is_subset(section, cell.runs) else "",
            "run_ids": " ".join(run.id for run in cell.runs),
        }
