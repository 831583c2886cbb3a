"""The rows of a published table, each with the recipe that runs it, our runs of it, and the runs that are missing.

Our runs of a row are those of the row's backbone, on data from a folder or the Hub.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modules.benchmarks.base import BENCHMARKS, Benchmark, benchmark
from modules.benchmarks.recipes import NoRecipe, Recipe, load_recipe
from modules.reports.tables.published import (
    PublishedRow,
    load_models,
    load_sizes,
    load_table,
    size_key,
)
from modules.reports.tables.section import Row, Section, short_name
from variants.errors import UserError
from variants.registry import BUILT_IN

PRIVATE = {"gpt3-175b": "GPT-3 175B", "ChatGPT": "ChatGPT", "GPT-3.5": "GPT-3.5"}
"""Models without public weights: their rows cannot be run."""


@dataclass(frozen=True)
class PaperRow:
    """A row of a published table.

    Attributes:
        number: its place in the table, from 1.
        hub: name of the backbone on the Hub.
        recipes: by task; empty where the row cannot be run.
        options: of the variant, where they differ from the recipe's.
        reason: for which the row cannot be run, or "".
        stand_in: tasks that our default settings can run where there is no recipe.
    """

    number: int
    published: PublishedRow
    hub: str = ""
    recipes: dict[str, Recipe] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    stand_in: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as `LoRA on roberta-base, 0.3M`."""
        row = self.published
        size = f", {row.params}" if row.params else ""
        return f"{row.method} on {row.model}{size}"

    @property
    def benchmark(self) -> Benchmark | None:
        """The benchmark that scores the row's tasks; None where the project has no such benchmark."""
        return benchmark(self.published.benchmark) if self.published.benchmark in BENCHMARKS else None

    def fits(self, words: str) -> bool:
        """Whether all of the words are in the row's name, protocol, variant or options, in any case."""
        text = f"{self.name} {self.published.protocol} {self.published.variant} {self.published.options}".lower()
        return all(word in text for word in words.lower().split())


def paper_rows(folder: str | Path, table: str) -> list[PaperRow]:
    """The rows of a table such as lora-2. Raises UserError where there is no such table."""
    models, sizes = load_models(folder), load_sizes(folder)
    rows = [replace(row, options=row.options or sizes.get(size_key(row), {})) for row in load_table(folder, table)]
    return [_paper_row(number, row, models) for number, row in enumerate(rows, start=1)]


def choose(rows: Sequence[PaperRow], words: str | None, table: str) -> list[PaperRow]:
    """The rows that fit `words`. Raises UserError naming the table's rows where none does."""
    chosen = [row for row in rows if not words or row.fits(words)]
    if not chosen:
        raise UserError(f"--rows {words!r} fits no row of {table}; its rows are: {'; '.join(row.name for row in rows)}")
    return chosen


def _paper_row(number: int, row: PublishedRow, models: dict[str, dict]) -> PaperRow:
    hub = models.get(row.model, {}).get("hub", "")
    reason = _unrunnable(row, hub)
    if reason:
        return PaperRow(number, row, hub, reason=reason)
    scorer = benchmark(row.benchmark)
    tasks = [task for task in scorer.tasks if any(c.task == task and c.key in row.scores for c in scorer.columns)]
    try:
        recipes = {task: load_recipe(hub, row.protocol, row.variant, task, scorer) for task in tasks}
    except NoRecipe:
        where = f"configs/{scorer.name}/{short_name(hub)}/{row.protocol}.yaml"
        reason = f"{_no_recipe(row)} ({where} has no {row.variant})"
        return PaperRow(number, row, hub, options=dict(row.options), reason=reason, stand_in=tuple(tasks))
    differing = {k: v for k, v in row.options.items() if any(r.options.get(k) != v for r in recipes.values())}
    return PaperRow(number, row, hub, recipes, differing)


def _unrunnable(row: PublishedRow, hub: str) -> str:
    if row.model in PRIVATE:
        return f"the weights of {PRIVATE[row.model]} are not public"
    if row.benchmark not in BENCHMARKS:
        return (
            "`python paper_repro/latency.py --device cuda` measures them"
            if row.benchmark == "latency"
            else "no such tasks here"
        )
    if row.variant not in BUILT_IN:
        return "no such method here"
    if row.protocol is None:
        return "its authors' protocol is not at hand"
    return "" if hub else f"no weights of {row.model} are known to us"


def _no_recipe(row: PublishedRow) -> str:
    return (
        "the paper copied the row and gives no settings" if row.mark == "copied" else "the paper gives no full recipe"
    )


# ---- our runs ---------------------------------------------------------------------------------------------------


def ours(paper: PaperRow, rows: Sequence[PaperRow], sections: Iterable[Section]) -> list[tuple[Section, Row]]:
    """Our rows of a published row: those with its backbone, method and options.

    Where other rows of the table differ from it in the protocol alone, their protocols are left out.
    """
    wanted = paper.published
    alternatives = [row.published for row in rows if row is not paper and _kind(row.published) == _kind(wanted)]
    protocols_of_others = {row.protocol for row in alternatives} - {wanted.protocol}
    return [
        (section, row)
        for section in sections
        if section.benchmark.name == wanted.benchmark and short_name(section.backbone["name"]) == wanted.model
        for row in section.rows
        if row.variant == wanted.variant and row.protocol not in protocols_of_others and _agrees(row, wanted.options)
    ]


def _kind(row: PublishedRow) -> tuple:
    return row.model, row.variant, str(sorted(row.options.items()))


def _agrees(row: Row, options: dict[str, Any]) -> bool:
    return all(run.variant_config.get(name) == value for run in row.runs for name, value in options.items())


# ---- what is missing --------------------------------------------------------------------------------------------


def missing(paper: PaperRow, found: Iterable[Row]) -> dict[tuple[int, ...], list[str]]:
    """The missing runs: tasks by the seeds that they lack, in the row's protocol."""
    done = {(run.task, run.seed) for row in found if row.protocol == paper.published.protocol for run in row.runs}
    lacking: dict[tuple[int, ...], list[str]] = {}
    for task, recipe in paper.recipes.items():
        if seeds := tuple(seed for seed in recipe.seeds if (task, seed) not in done):
            lacking.setdefault(seeds, []).append(task)
    return lacking


def command(paper: PaperRow, tasks: Sequence[str] = (), seeds: Sequence[int] = ()) -> str:
    """The command line that runs a row, by its recipe or else by our default settings.

    Args:
        tasks, seeds: some of them; none: all.
    """
    row = paper.published
    preset = str(row.protocol) if paper.recipes else "default"
    words = ["python", f"paper_repro/{paper.benchmark.script}", "--preset", preset, "--model", paper.hub]
    words += ["--variant", str(row.variant)]
    for name, value in paper.options.items():
        words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    words += ["--tasks", ",".join(tasks or paper.recipes or paper.stand_in)]
    words += ["--seeds", ",".join(map(str, seeds))] if seeds else []
    return shlex.join(words)
