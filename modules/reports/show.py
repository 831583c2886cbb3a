"""The table of a results folder: printed and written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modules.benchmarks.base import Benchmark
from modules.benchmarks.glue import GLUE
from modules.paths import PUBLISHED


def show_table(results_dir: str, write: bool = True, ids: set[str] | None = None, benchmark: Benchmark = GLUE) -> int:
    """Print the table of the results under ``results_dir`` and say where it is."""
    from modules.reports.console import to_text
    from modules.reports.published import load_published
    from modules.reports.tables import build
    from modules.reports.write import write_tables
    from modules.runs.results import ResultStore

    results = [result for result in ResultStore(results_dir).all() if result.benchmark == benchmark.name]
    if not results:
        print(f"no results under {results_dir}", file=sys.stderr)
        return 1
    shown = [result for result in results if ids is None or result.id in ids]
    published = load_published(PUBLISHED, benchmark.name)
    print(to_text(build(shown, published, benchmark)))
    if write:
        print("written:", *write_tables(os.path.join(results_dir, "tables"), results, published, benchmark))
    return 0


def show_paper_table(results_dir: str, table: str) -> None:
    """Write a published table with the runs under ``results_dir`` beside it; say how much of it is there."""
    from modules.reports.paper_rows import all_sections
    from modules.reports.paper_tables import paper_table
    from modules.runs.results import ResultStore
    from variants.atomic import write_atomic

    texts = paper_table(PUBLISHED, table, all_sections(PUBLISHED, ResultStore(results_dir).all()))
    folder = Path(results_dir) / "tables" / "papers"
    for name, text in texts.items():
        write_atomic(folder / name, text)
    print("the paper's table with these runs in it:", *(folder / name for name in texts))
