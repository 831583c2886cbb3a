"""The tables of a results folder, printed and written after a command has trained its runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modules.benchmarks.base import Benchmark
from modules.paths import PUBLISHED
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.reports.tables.section import Section


def show_table(
    results_dir: str,
    benchmark: Benchmark,
    write: bool = True,
    ids: set[str] | None = None,
    differences: bool = False,
    tasks: Collection[str] | None = None,
) -> int:
    """Print the table of the results under ``results_dir``, write its files, and name them.

    Args:
        ids: print the rows of these runs alone; the files hold all runs.
        differences: print those between the rows too.
        tasks: print the rows of these alone.

    Returns:
        The exit code: 1 where there are no results.
    """
    from modules.reports.formats.console import to_text
    from modules.reports.formats.differences import differences_text
    from modules.reports.html.write import write_report
    from modules.reports.tables.build import build
    from modules.reports.tables.published import load_published
    from modules.reports.tables.rate_curves import Trials
    from modules.reports.write import write_tables
    from modules.runs.results import ResultStore

    results = [result for result in ResultStore(results_dir).all() if result.benchmark == benchmark.name]
    if not results:
        print(f"no results under {results_dir}", file=sys.stderr)
        return 1
    shown = [result for result in results if ids is None or result.id in ids]
    if tasks is not None and not (shown := [result for result in shown if result.task in tasks]):
        print(f"no results of {', '.join(tasks)} under {results_dir}", file=sys.stderr)
        return 1
    published = load_published(PUBLISHED, benchmark.name)
    sections = build(shown, benchmark, published)
    print(to_text(sections))
    if differences and (text := differences_text(sections)):
        print(text)
    if write:
        trials = Trials.of(results_dir)
        every = build(results, benchmark, published, trials)
        print("written:", *write_tables(os.path.join(results_dir, "tables"), every, benchmark))
        if trials:
            _draw_rates(results_dir, every)
        print("report:", write_report(results_dir))
    return 0


def _draw_rates(results_dir: str, sections: Sequence[Section]) -> None:
    """Draw how the methods' scores depend on the learning rate, and name the files."""
    from modules.reports.plots.files import write_plots

    try:
        print("learning rates:", *write_plots(os.path.join(results_dir, "tables"), sections, "rates"))
    except UserError as error:
        print(f"no picture of the learning rates: {error}")


def show_paper_table(results_dir: str, table: str) -> None:
    """Write a published table, such as lora-2, with the runs under ``results_dir``, and name its files."""
    from modules.reports.papers.paper_tables import paper_table
    from modules.reports.tables.build import all_sections
    from modules.runs.results import ResultStore
    from variants.atomic import write_atomic

    texts = paper_table(PUBLISHED, table, all_sections(PUBLISHED, ResultStore(results_dir).all()))
    folder = Path(results_dir) / "tables" / "papers"
    for name, text in texts.items():
        write_atomic(folder / name, text)
    print("the paper's table with these runs in it:", *(folder / name for name in texts))
