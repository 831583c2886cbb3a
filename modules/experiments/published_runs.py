"""`--table`, `--rows` and `--plan`: from the rows of a published table to runs, or to commands and what they cost.

A plan is made from recipes alone: nothing is downloaded and nothing trains, so it works without the Hub.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.benchmarks.base import BENCHMARKS, Benchmark, benchmark
from modules.benchmarks.recipes import Recipe, recipes_for
from modules.benchmarks.settings import TrainingSettings
from modules.embedded import is_embedded
from modules.experiments.plan import choose_model, settings
from modules.experiments.wishes import Wishes
from modules.reports.papers.paper_rows import PaperRow, choose, paper_rows
from modules.reports.tables.section import short_name
from modules.runs.results import canonical
from variants.errors import UserError
from variants.registry import resolve
from variants.variant import BaseVariant


@dataclass(frozen=True)
class PlannedRun:
    """A run that a command would do, known from its recipe alone.

    Attributes:
        wishes: of the command, or of its row of a published table.
        model: by name.
        recipe, seed: of the run.
        training, variant: what the recipe and the flags amount to.
        start: the key of the run whose weights it starts from; None without one.
        rows: of training data, and of the dev set that is scored after each epoch (0 where that is generation).
        letters: of a mean training row; None where the rows have not been read.
    """

    wishes: Wishes
    model: str
    recipe: Recipe
    seed: int
    training: dict[str, Any]
    variant: BaseVariant
    start: str | None
    rows: tuple[int, int]
    letters: float | None = None

    @property
    def key(self) -> str:
        """What tells it from other runs; runs that are done have the same."""
        return run_key(
            self.wishes.benchmark.name, self.recipe.task, self.variant.name, self.recipe.protocol, self.seed,
            short_name(self.model), self.variant.options(), self.training,
        )  # fmt: skip

    @property
    def settings(self) -> TrainingSettings:
        """All its training settings, defaults included."""
        return self.wishes.benchmark.settings.of(self.training)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.settings.steps_per_epoch(self.rows[0]) * self.settings.epochs

    @property
    def command(self) -> str:
        """The complete command line of this one run, for the folder in which it is asked for."""
        return self.wishes.command(self.recipe.task, self.seed)


def run_key(*parts: Any) -> str:
    """Settings of a run as text, equal for equal settings: see `PlannedRun.key`."""
    return str([canonical(part) for part in parts])


def planned_runs(wishes: Wishes) -> list[PlannedRun]:
    """The runs of some wishes, those that others start from included. Raises UserError as `make_plan` does."""
    own, cls = wishes.benchmark, resolve(wishes.variant)
    if unknown := [task for task in wishes.tasks if task not in own.tasks]:
        raise UserError(f"unknown task {unknown[0]!r}; the tasks are {', '.join(own.tasks)}")
    if wishes.budget:
        raise UserError("--plan does not size a variant: give --r (or the like) in place of --budget")
    model, preset = choose_model(wishes, [])
    wishes = dataclasses.replace(wishes, preset=preset)
    found: dict[str, PlannedRun] = {}
    sizes: dict[str, tuple[tuple[int, int], float | None]] = {}
    where = "embedded" if is_embedded(model) else "folder" if Path(model).expanduser().is_dir() else "hub"
    usual = own.usual_tasks(where)
    for recipe in recipes_for(model, preset, cls.name, own, wishes.tasks, wishes.mnli_init, usual).values():
        for seed in wishes.seeds or recipe.seeds:
            start = None
            for each in (recipe.start, recipe) if recipe.start else (recipe,):
                training, variant = settings(wishes, cls, each)
                if each.task not in sizes:
                    sizes[each.task] = data_sizes(own, model, wishes.data_dir, each.task, training)
                run = PlannedRun(wishes, model, each, seed, training, variant, start, *sizes[each.task])
                found.setdefault(run.key, run)
                start = run.key
    return list(found.values())


def data_sizes(
    own: Benchmark, model: str, data_dir: str | None, task: str, training: Mapping[str, Any]
) -> tuple[tuple[int, int], float | None]:
    """((training rows, dev rows scored after an epoch), letters of a mean training row).

    Of the rows that the command would read; without them the official numbers of rows.

    Raises:
        UserError: the rows cannot be read, or the training settings do not belong to their labels.
    """
    counted = own.scored_on == "dev"
    if own.official_rows and not is_embedded(model) and not (data_dir or os.environ.get(own.data_env)):
        train, scored = own.official_rows[task]
        return (train, scored if counted else 0), None
    source = own.source("embedded" if is_embedded(model) else "folder", data_dir)
    own.labelled(own.tasks[task], source, training)
    texts = source.load(own.tasks[task])["train"].texts
    sizes = source.sizes[task]
    letters = sum(len(text) for row in texts for text in row) / len(texts)
    return (sizes["train"], own.scored_rows(sizes) if counted else 0), letters


# ---- rows of a published table ------------------------------------------------------------------------------------


def table_wishes(published: Path, table: str, words: str | None, base: Wishes) -> tuple[list[Wishes], list[str]]:
    """(wishes of each row that can be run, lines about those that cannot). Raises UserError where none can."""
    chosen = choose(paper_rows(published, table), words, table)
    name = chosen[0].published.benchmark
    if name in BENCHMARKS and name != base.benchmark.name:
        raise UserError(f"{table} is {benchmark(name).title}: use paper_repro/{benchmark(name).script}")
    own = base.preset != "auto"
    able = [row for row in chosen if row.recipes or (own and row.stand_in)]
    skipped = [f"not run: [{row.number}] {row.name}: {row.reason}" for row in chosen if row not in able]
    if not able:
        reasons = "; ".join(dict.fromkeys(row.reason for row in chosen))
        hint = "; --preset default runs them by our default settings" if any(row.stand_in for row in chosen) else ""
        raise UserError(f"none of these rows of {table} can be run: {reasons}{hint}")
    if base.model and len({row.published.model for row in able}) > 1:
        raise UserError(f"--model stands for one backbone, and these rows of {table} have several: narrow --rows")
    return [_row_wishes(row, base, own) for row in able], skipped


def _row_wishes(row: PaperRow, base: Wishes, own: bool) -> Wishes:
    known = row.recipes or row.stand_in
    tasks = [task for task in known if not base.tasks or task in base.tasks]
    if not tasks:
        raise UserError(f"{row.name} has no task of {', '.join(base.tasks)}; it has {', '.join(known)}")
    return dataclasses.replace(
        base,
        variant=row.published.variant,
        options=dict(row.published.options) if own else row.options,
        preset=base.preset if own else row.published.protocol,
        model=base.model or row.hub,
        tasks=tasks,
    )
