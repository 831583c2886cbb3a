"""All formats of a benchmark's table, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.benchmarks.base import Benchmark
from modules.reports.formats.csv_table import to_csv
from modules.reports.formats.differences import differences_csv
from modules.reports.formats.latex import to_latex
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.published import PublishedRow
from modules.reports.tables.section import Section
from modules.runs.results import RunResult
from variants.atomic import write_atomic


def table_texts(sections: Sequence[Section], benchmark: Benchmark) -> dict[str, str]:
    """Texts of a benchmark's table by file name: Markdown, CSV, LaTeX, and the differences between rows as CSV."""
    return {
        f"{benchmark.name}.md": to_markdown(sections, benchmark),
        f"{benchmark.name}.csv": to_csv(sections),
        f"{benchmark.name}.tex": to_latex(sections),
        f"{benchmark.name}-differences.csv": differences_csv(sections),
    }


def write_tables(
    folder: str | Path,
    results: Iterable[RunResult],
    benchmark: Benchmark,
    published: Sequence[PublishedRow] = (),
) -> list[Path]:
    """Write the benchmark's table into `folder`, atomically, and return the files. Raises UserError on a full disk."""
    texts = table_texts(build(results, benchmark, published), benchmark)
    for name, text in texts.items():
        write_atomic(Path(folder) / name, text)
    return [Path(folder) / name for name in texts]
