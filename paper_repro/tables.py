"""Rebuild tables and plots from result files and published figures alone.

    python paper_repro/tables.py                     every folder of results/reference that has runs, and results/
    python paper_repro/tables.py DIR [DIR ...]       these results folders
    python paper_repro/tables.py --check             change nothing; exit code 1 where a shipped table would change

A folder's tables are DIR/tables: for each benchmark Markdown, CSV, LaTeX and the differences between rows, and plots as
PNG and SVG. The papers' tables with our rows beside theirs (lora-2.md, ...) lie in results/reference/papers, from all
reference results together, and in DIR/tables/papers for a folder that you name and for results/. The same files give
the same bytes. Plots need matplotlib (pip install 'lora-variants[plots]'); without it everything else is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.benchmarks.base import BENCHMARKS, benchmark
from modules.paths import PROJECT, PUBLISHED, checkout
from modules.reports.paper_tables import paper_tables
from modules.reports.plots import stale_plots, write_plots
from modules.reports.published import load_published
from modules.reports.tables import Section, build
from modules.reports.write import render
from modules.runs.results import ResultStore, RunResult
from variants.atomic import write_atomic
from variants.errors import UserError

REFERENCE = PROJECT / "results" / "reference"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="results folders (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a file would change")
    parser.add_argument("--no_plots", action="store_true", help="the text tables alone")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    texts: dict[Path, str] = {}
    drawings: list[tuple[Path, list[Section]]] = []
    for folder, results in sources(options.folders, options.check):
        for name in BENCHMARKS:
            own = benchmark(name)
            if sections := build(results, load_published(PUBLISHED, name), own):
                texts |= {folder / "tables" / file: text for file, text in render(sections, own).items()}
                drawings.append((folder / "tables", sections))
    for folder, results in paper_folders(options.folders, options.check):
        texts |= {folder / file: text for file, text in paper_tables(PUBLISHED, results).items()}
    drawings = [] if options.no_plots else drawings
    return check(texts, drawings) if options.check else write(texts, drawings)


def sources(folders: Sequence[Path], shipped: bool = False) -> list[tuple[Path, list[RunResult]]]:
    """The results folders and their runs; `shipped`: by default without results/, which is nobody's but yours.

    Raises UserError on a named folder that has no runs, and where none is named outside of a checkout.
    """
    named = list(folders)
    if not named:
        checkout("name a results folder, such as results; without one the tables of a checkout's results are rebuilt")
        named = sorted(REFERENCE.iterdir()) + ([] if shipped else [PROJECT / "results"])
    found = [(folder, ResultStore(folder).all()) for folder in named]
    if folders and (empty := [folder for folder, results in found if not results]):
        raise UserError(f"{empty[0]} has no results (runs/*.json); name a --results_dir of glue.py or e2e.py")
    return [(folder, results) for folder, results in found if results]


def paper_folders(folders: Sequence[Path], shipped: bool = False) -> list[tuple[Path, list[RunResult]]]:
    """Where the papers' tables are written, and the runs that they show."""
    if folders:
        return [(folder / "tables" / "papers", results) for folder, results in sources(folders)]
    found = sources((), shipped)
    together = [run for folder, results in found if folder.parent == REFERENCE for run in results]
    own = [(folder / "tables" / "papers", results) for folder, results in found if folder.parent != REFERENCE]
    return [(REFERENCE / "papers", together), *own]


def write(texts: dict[Path, str], drawings: Sequence[tuple[Path, list[Section]]]) -> int:
    for path in changed_texts(texts):
        write_atomic(path, texts[path])
    print("written:", *map(_shown, texts), sep="\n  ")
    try:
        plots = [path for folder, sections in drawings for path in write_plots(folder, sections)]
        print("plots:", *map(_shown, plots), sep="\n  ")
    except UserError as error:
        print(f"no plots: {error}", file=sys.stderr)
    return 0


def changed_texts(texts: dict[Path, str]) -> list[Path]:
    """The files that are not what they should be."""
    return [path for path, text in texts.items() if not path.is_file() or path.read_bytes() != text.encode()]


def check(texts: dict[Path, str], drawings: Sequence[tuple[Path, list[Section]]]) -> int:
    """Name every file that `write` would change; 1 where there is one."""
    changed = changed_texts(texts)
    changed += [path for folder, sections in drawings for path in stale_plots(folder, sections)]
    for path in changed:
        print(f"would change: {_shown(path)}", file=sys.stderr)
    print(f"{len(texts)} tables checked, {len(changed)} files would change")
    return 1 if changed else 0


def _shown(path: Path) -> str:
    return str(path.relative_to(PROJECT)) if path.is_relative_to(PROJECT) else str(path)


if __name__ == "__main__":
    from modules.command_line import guarded

    sys.exit(guarded(main))
