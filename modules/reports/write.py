"""All formats of a benchmark's table, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modules.benchmarks.base import Benchmark
from modules.reports.formats.csv_table import to_csv
from modules.reports.formats.differences import differences_csv
from modules.reports.formats.latex import to_latex
from modules.reports.formats.markdown import to_markdown
from modules.reports.formats.rates import rates_csv, rates_markdown
from modules.reports.tables.section import Section
from variants.atomic import write_atomic


def table_texts(sections: Sequence[Section], benchmark: Benchmark) -> dict[str, str]:
    """Texts of a benchmark's table by file name: Markdown, CSV, LaTeX, the differences between rows as CSV, and the
    learning rates that compare.py tried."""
    found = {
        f"{benchmark.name}.md": to_markdown(sections, benchmark),
        f"{benchmark.name}.csv": to_csv(sections),
        f"{benchmark.name}.tex": to_latex(sections),
        f"{benchmark.name}-differences.csv": differences_csv(sections),
    }
    if any(section.curves for section in sections):
        found |= {
            f"{benchmark.name}-rates.md": rates_markdown(sections),
            f"{benchmark.name}-rates.csv": rates_csv(sections),
        }
    return found


def write_tables(
    folder: str | Path,
    sections: Sequence[Section],
    benchmark: Benchmark,
) -> list[Path]:
    """Write the benchmark's table into `folder`, atomically, and return the files. Raises UserError on a full disk."""
    texts = table_texts(sections, benchmark)
    for name, text in texts.items():
        write_atomic(Path(folder) / name, text)
    return [Path(folder) / name for name in texts]
