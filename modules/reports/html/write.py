"""The page of a results folder, written."""

from __future__ import annotations

from pathlib import Path

from modules.paths import PUBLISHED
from modules.reports.html.library import library
from modules.reports.html.page import page
from modules.reports.tables.build import all_sections
from modules.reports.tables.rate_curves import Trials
from modules.runs.results import ResultStore
from variants.atomic import write_atomic
from variants.errors import UserError

REPORT = "report.html"
"""The page's file in a results folder: its links to result files are relative."""


def write_report(results_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of all results under ``results_dir``; returns its path.

    Args:
        out: its file, by default ``results_dir``/report.html, where links to result files work.

    Raises:
        UserError: there are no results, or the page cannot be written.
    """
    folder = Path(results_dir)
    results = ResultStore(folder).all()
    if not results:
        raise UserError(f"{folder} has no results (runs/*.json); name a --results_dir of a command that has trained")
    sections = all_sections(PUBLISHED, results, Trials.of(folder))
    path = Path(out) if out else folder / REPORT
    name = folder.resolve().name
    write_atomic(path, page(name, sections, library()))
    return path
