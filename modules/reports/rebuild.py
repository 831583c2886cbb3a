"""All tables and plots of results folders, from result files and published figures alone: written, or checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from modules.paths import PROJECT, PUBLISHED, checkout
from modules.reports.papers.paper_tables import paper_tables
from modules.reports.plots.files import stale_plots, write_plots
from modules.reports.tables.build import all_sections
from modules.reports.tables.rate_curves import Trials
from modules.reports.tables.section import Section
from modules.reports.write import table_texts
from modules.runs.results import ResultStore, RunResult
from variants.atomic import write_atomic
from variants.errors import UserError

REFERENCE = PROJECT / "results" / "reference"
"""The project's results folders."""


def rebuild(folders: Sequence[Path] = (), check: bool = False, plots: bool = True) -> int:
    """Write the tables and plots of results folders, or name those that would change.

    Args:
        folders: results folders; none: all that the project ships and, unless `check`, ``results`` of the checkout.
        check: write nothing.
        plots: the plots too.

    Returns:
        The exit code: 1 where `check` finds a file that would change.

    Raises:
        UserError: a named folder has no results, or the disk is full.
    """
    texts: dict[Path, str] = {}
    drawings: list[tuple[Path, list[Section]]] = []
    sources = _sources(folders, shipped=check)
    for folder, results in sources:
        groups: dict[str, list[Section]] = {}
        for section in all_sections(PUBLISHED, results, Trials.of(folder)):
            groups.setdefault(section.benchmark.name, []).append(section)
        for sections in groups.values():
            files = table_texts(sections, sections[0].benchmark)
            texts |= {folder / "tables" / file: text for file, text in files.items()}
            drawings.append((folder / "tables", sections))
    for folder, results in _each(sources) if folders else _together(sources):
        texts |= {folder / file: text for file, text in paper_tables(PUBLISHED, results).items()}
    drawings = drawings if plots else []
    return _check(texts, drawings) if check else _write(texts, drawings)


def _sources(folders: Sequence[Path], shipped: bool) -> list[tuple[Path, list[RunResult]]]:
    """The results folders and their runs.

    Args:
        shipped: without named folders, those of the project alone: a person's ``results`` are left out.
    """
    named = list(folders)
    if not named:
        checkout("name a results folder, such as results; without one the tables of a checkout's results are rebuilt")
        named = [*sorted(REFERENCE.iterdir()), *([] if shipped else [PROJECT / "results"])]
    found = [(folder, ResultStore(folder).all()) for folder in named]
    if folders and (empty := [folder for folder, results in found if not results]):
        raise UserError(f"{empty[0]} has no results (runs/*.json); name a --results_dir of glue.py or e2e.py")
    return [(folder, results) for folder, results in found if results]


def _together(sources: Sequence[tuple[Path, list[RunResult]]]) -> list[tuple[Path, list[RunResult]]]:
    """The folders of the papers' tables, and the runs in them: one for all reference results together."""
    reference = [run for folder, results in sources if folder.parent == REFERENCE for run in results]
    others = [source for source in sources if source[0].parent != REFERENCE]
    return [(REFERENCE / "papers", reference), *_each(others)]


def _each(sources: Sequence[tuple[Path, list[RunResult]]]) -> list[tuple[Path, list[RunResult]]]:
    """The folders of the papers' tables, and the runs in them: one for each results folder."""
    return [(folder / "tables" / "papers", results) for folder, results in sources]


def _write(texts: dict[Path, str], drawings: Sequence[tuple[Path, list[Section]]]) -> int:
    for path in _changed(texts):
        write_atomic(path, texts[path])
    print("written:", *map(_shown, texts), sep="\n  ")
    try:
        plots = [path for folder, sections in drawings for path in write_plots(folder, sections)]
        print("plots:", *map(_shown, plots), sep="\n  ")
    except UserError as error:
        print(f"no plots: {error}", file=sys.stderr)
    return 0


def _changed(texts: dict[Path, str]) -> list[Path]:
    """The files whose content is not their text."""
    return [path for path, text in texts.items() if not path.is_file() or path.read_bytes() != text.encode()]


def _check(texts: dict[Path, str], drawings: Sequence[tuple[Path, list[Section]]]) -> int:
    changed = _changed(texts)
    changed += [path for folder, sections in drawings for path in stale_plots(folder, sections)]
    for path in changed:
        print(f"would change: {_shown(path)}", file=sys.stderr)
    print(f"{len(texts)} tables checked, {len(changed)} files would change")
    return 1 if changed else 0


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)
