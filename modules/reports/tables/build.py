"""From result files to the sections, rows and cells of a benchmark's tables.

Scores of different backbones or data never share a section, runs with different settings never share a row, and every
cell is backed by result files. The same result files give the same bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modules.benchmarks.base import BENCHMARKS, Benchmark, Column
from modules.benchmarks.recorded import as_recorded
from modules.reports.tables.grouping import differing, label_of, row_order, settings_of
from modules.reports.tables.published import PublishedRow, load_published
from modules.reports.tables.rate_curves import Trials, rate_curves
from modules.reports.tables.section import Cell, Row, Section
from modules.runs.labels import as_text, short_name
from modules.runs.results import RunResult


def build(
    results: Iterable[RunResult],
    benchmark: Benchmark,
    published: Sequence[PublishedRow] = (),
    trials: Trials | None = None,
) -> list[Section]:
    """The sections of a benchmark's results, sorted by name whatever the order of `results`.

    Args:
        results: of any benchmark; those of other benchmarks are left out.
        published: rows of the papers, to be shown with ours of the same method.
        trials: of compare.py in the same results folder.
    """
    groups: dict[tuple[str, ...], list[RunResult]] = {}
    ordered = sorted(results, key=lambda run: run.id)
    names = _data_names(ordered)
    tasks = benchmark.seen_in([run for run in ordered if run.benchmark == benchmark.name]).tasks
    for run in ordered:
        if run.benchmark == benchmark.name and run.task in tasks:
            place = tuple(str(run.backbone.get(key, "")) for key in ("source", "name", "hash", "frozen"))
            groups.setdefault((*place, *names[run.data["source"], run.data["name"]]), []).append(run)
    sections = []
    for (*_, source, name), runs in sorted(groups.items()):
        own = benchmark.seen_in(runs)
        rows = sorted(_rows(runs, {run.id: run for run in runs}, own), key=_place)
        backbone, data = runs[0].backbone, runs[0].data | {"source": source, "name": name}
        comparable = _comparable(rows, backbone, published, own)
        section = Section(backbone, data, tuple(rows), own, tuple(comparable))
        sections.append(replace(section, curves=tuple(rate_curves(section, trials))) if trials else section)
    return sections


def all_sections(folder: str | Path, results: Iterable[RunResult], trials: Trials | None = None) -> list[Section]:
    """The sections of every benchmark that the runs belong to, the project's first.

    Args:
        folder: of the published figures.
        trials: as in `build`.
    """
    runs = list(results)
    names = dict.fromkeys([*BENCHMARKS, *sorted(run.benchmark for run in runs)])
    return [s for name in names for s in build(runs, as_recorded(name), load_published(folder, name), trials)]


def _comparable(
    rows: list[Row], backbone: Mapping, published: Sequence[PublishedRow], benchmark: Benchmark
) -> list[PublishedRow]:
    """Published rows of our rows' variants that have a score of ours: of this backbone, else of the papers' backbone,
    else of any; none twice."""
    found = []
    keys = {column.key for column in benchmark.columns}
    shown = [row for row in published if not row.repeats and keys & set(row.scores)]
    for variant in dict.fromkeys(row.variant for row in rows):
        candidates = [row for row in shown if row.variant == variant]
        for model in (short_name(backbone["name"]), benchmark.paper_model):
            if same := [row for row in candidates if row.model == model]:
                candidates = same
                break
        found += candidates
    return found


def _rows(runs: list[RunResult], by_id: Mapping[str, RunResult], benchmark: Benchmark) -> list[Row]:
    """Group by protocol, variant and hand-set options; then split on every setting that differs within a task."""
    groups: dict[tuple[str, str, str], list[RunResult]] = {}
    for run in runs:
        groups.setdefault((run.protocol, run.variant, as_text(run.overrides)), []).append(run)
    rows = []
    for (protocol, variant, _), group in sorted(groups.items()):
        settings = {run.id: settings_of(run, by_id) for run in group}
        names = differing(group, settings, benchmark)
        parts: dict[tuple[str, ...], list[RunResult]] = {}
        for run in group:
            parts.setdefault(tuple(settings[run.id].get(key, "null") for key in names), []).append(run)
        for values, part in sorted(parts.items()):
            shown = dict(zip(names, values, strict=True))
            rows.append(_row(protocol, variant, part, shown, benchmark))
    return rows


def _row(
    protocol: str,
    variant: str,
    runs: list[RunResult],
    shown: Mapping[tuple[str, str], str],
    benchmark: Benchmark,
) -> Row:
    by_task: dict[str, tuple[RunResult, ...]] = {}
    remarks = []
    for task in benchmark.tasks:
        by_seed: dict[int, RunResult] = {}
        for run in sorted((r for r in runs if r.task == task), key=lambda r: (_time(r), r.id)):
            if run.seed in by_seed:
                old = by_seed[run.seed].id
                remarks.append(
                    f"{benchmark.tasks[task].title}, seed {run.seed}: the newer of two runs ({run.id}, not {old})"
                )
            by_seed[run.seed] = run
        if by_seed:
            by_task[task] = tuple(by_seed[seed] for seed in sorted(by_seed))
    cells = {
        column.key: Cell(column, by_task[column.task], benchmark.statistic)
        for column in benchmark.columns
        if column.task in by_task and _has(column, by_task[column.task])
    }
    columns = len(benchmark.columns) if benchmark.average else 0
    return Row(protocol, variant, label_of(runs, shown), by_task, cells, tuple(remarks), columns)


def _has(column: Column, runs: tuple[RunResult, ...]) -> bool:
    """Whether the runs have the column's score: a scorer may have been missing where some of them ran."""
    return not column.metric or all((run.test or {}).get(column.metric) is not None for run in runs)


def _place(row: Row) -> tuple:
    return row_order(row.variant, row.protocol, row.label, row.runs)


def _time(run: RunResult) -> str:
    return str(run.environment.get("time", ""))


def _data_names(results: Iterable[RunResult]) -> dict[tuple[str, str], tuple[str, str]]:
    """(source, name) of each run's data -> the one that stands for it: the first name, in order of the alphabet, of
    those that name the same content, as two copies of a folder do."""
    same: dict[tuple[str, str], set[tuple[str, str]]] = {}
    holders: dict[tuple[str, str, str], tuple[str, str]] = {}
    for run in results:
        place = (run.data["source"], run.data["name"])
        own = same.setdefault(place, {place})
        other = same[holders.setdefault((place[0], run.task, str(run.data["hash"])), place)]
        if own is not other:
            own |= other
            same |= dict.fromkeys(own, own)
    return {place: min(places) for place, places in same.items()}
