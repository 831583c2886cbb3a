"""Tables as a reader of the Markdown sees them, and the published rows."""

import re

from modules.benchmarks.glue import GLUE
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.published import load_published
from paper_repro import PUBLISHED

EIGHT = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")


def lines(results, published=()) -> list[list[str]]:
    """Cells of every table row of the Markdown."""
    text = to_markdown(build(results, GLUE, published), GLUE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def table(results, published=()) -> dict[str, dict[str, str]]:
    """Rows of a single Markdown table by method, each by column."""
    head, _, *rows = lines(results, published)
    assert head.count("Method") == 1 and all(len(row) == len(head) for row in rows)
    found = {row[1].replace("`", ""): dict(zip(head, row, strict=True)) for row in rows}
    assert len(found) == len(rows)
    return found


def only(results):
    ((_, row),) = table(results).items()
    return row


PAPERS = load_published(PUBLISHED, "glue")


def published(source, **wanted):
    rows = [r for r in PAPERS if r.source == source and all(getattr(r, key) == value for key, value in wanted.items())]
    assert rows, wanted
    return rows
