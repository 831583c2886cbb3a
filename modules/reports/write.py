"""All forms of a table, and the files that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from modules.benchmarks.base import Benchmark
from modules.benchmarks.glue import GLUE
from modules.reports.published import PublishedRow
from modules.reports.tables import Section, build
from modules.runs.results import RunResult
from variants.atomic import write_atomic


def render(sections: Sequence[Section], benchmark: Benchmark = GLUE) -> dict[str, str]:
    """Text of every file of a benchmark's table by name: Markdown, CSV, LaTeX and the differences."""
    from modules.reports import significance_tables as render_differences
    from modules.reports.csv_table import to_csv
    from modules.reports.latex import to_latex
    from modules.reports.markdown import to_markdown

    return {
        f"{benchmark.name}.md": to_markdown(sections, benchmark),
        f"{benchmark.name}.csv": to_csv(sections),
        f"{benchmark.name}.tex": to_latex(sections),
        f"{benchmark.name}-differences.csv": render_differences.to_csv(sections),
    }


def write_tables(
    folder: str | Path,
    results: Iterable[RunResult],
    published: Sequence[PublishedRow] = (),
    benchmark: Benchmark = GLUE,
) -> list[Path]:
    """Write the benchmark's tables into `folder`, atomically; return their paths. UserError on a full disk."""
    texts = render(build(results, published, benchmark), benchmark)
    for name, text in texts.items():
        write_atomic(Path(folder) / name, text)
    return [Path(folder) / name for name in texts]
