"""A comparison of variants from a file: learning rates tuned, then seeds run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from modules.benchmarks.base import Benchmark, settings_of
from modules.data.source import Source
from modules.experiments.budget import line, pick
from modules.experiments.comparison_file import ComparisonFile, Entry
from modules.experiments.dashboards import begin
from modules.experiments.plan import make_plan, open_source
from modules.experiments.stacking import stacks
from modules.experiments.wishes import Wishes
from modules.launch.holders import say_what_is_missing
from modules.launch.jobs.launch import Launch, carry_out
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore, RunResult
from variants.atomic import write_atomic
from variants.errors import UserError
from variants.outside.options import build
from variants.registry import resolve

NEAR = 0.5  # how far from a budget, as a share of it, a size may be and still count as one of that budget


@dataclass(frozen=True)
class Row:
    """A row of the comparison: one variant with one set of options. `grid` holds the learning rates to choose from."""

    name: str
    variant: str
    options: dict[str, Any]
    common: dict[str, Any]
    grid: tuple[float, ...]
    seeds: tuple[int, ...]
    budget: dict[str, int] | None = None


@dataclass
class Comparison:
    """A comparison file, and what the command line adds to it.

    Attributes:
        path, content: of the file.
        wishes: of the command line, for every run: model, data, results folder and how runs are carried out.
        jobs: runs at once; None for one for each GPU or core.
        stack: train seeds at once where the variant can be stacked.
        code: the variants from outside (``FILE.py:CLASS``) that the caller has named: a file brings no code.
        launch: jobs of a scheduler in place of workers.
    """

    path: Path
    content: ComparisonFile
    wishes: Wishes
    jobs: int | None = 1
    stack: bool = False
    code: frozenset[str] = frozenset()
    launch: Launch | None = None
    _source: Source | None = field(default=None, repr=False)

    @property
    def benchmark(self) -> Benchmark:
        """Whose tasks are compared."""
        return self.wishes.benchmark

    @property
    def results_dir(self) -> Path:
        """The folder of the comparison."""
        return Path(self.wishes.results_dir)

    @property
    def tuning(self) -> Path:
        """The folder of the tuning runs."""
        return self.results_dir / "tuning"

    @property
    def folder(self) -> Path:
        """The backbone's."""
        from modules.backbones.loading import resolve as resolve_backbone

        model = self.wishes.model
        return resolve_backbone(model, self.benchmark.embedded() if model == "embedded" else None)[2]

    def rows(self, names: list[str] | None = None, budgets: list[str] | None = None) -> list[Row]:
        """Rows of the file, in its order; with budgets one for each of them where the variant has a size.

        Raises:
            UserError: the file has no such row, or its variant is code that nobody has named.
        """
        entries = self.content.variants
        if unknown := [name for name in names or () if name not in entries]:
            raise UserError(f"{self.path} has no variant {unknown[0]!r}; it has {', '.join(entries)}")
        rows = [self._row(name, entries[name]) for name in names or entries]
        return [sized for row in rows for sized in self._sized(row, budgets or [])]

    def _row(self, name: str, entry: Entry) -> Row:
        seeds = tuple(self.content.seeds if entry.seeds is None else entry.seeds)
        variant = entry.variant or name
        if ":" in variant and variant not in self.code:
            raise UserError(
                f"a file brings no code, and {self.path}: {name!r} names {variant!r}: if you trust that code, name it "
                f"yourself: --code {variant}"
            )
        return Row(name, variant, entry.options or {}, entry.common or {}, entry.grid, seeds)

    def _sized(self, row: Row, budgets: list[str]) -> list[Row]:
        if not budgets:
            return [row]
        cls = resolve(row.variant)
        if not cls.size:
            print(f"budget: {row.name} has no size that a budget could set, and stays as it is", flush=True)
            return [row]
        found = []
        for wanted in budgets:
            variant = build(cls, row.options)
            sizes, budget = pick(self.folder, self.benchmark.auto_class, variant, wanted)
            near = abs(budget["counted"] / budget["wanted"] - 1) <= NEAR
            print(line(row.name, sizes, budget) + ("" if near else ": not near, so it stays as it is"), flush=True)
            name = f"{row.name}-{budget['wanted']}"
            found.append(replace(row, name=name, options=row.options | sizes, budget=budget) if near else row)
        return list({sized.name: sized for sized in found}.values())

    # ---- runs -------------------------------------------------------------------------------------------------

    def runs(self, row: Row, lr: float, tuning: bool = False) -> list[RunConfig]:
        """The runs of a row with one learning rate; leaves their recipe file."""
        folder, rule = self.results_dir, self.content.tune
        recipe = folder / "recipes" / f"{row.name}.yaml"
        if tuning:
            folder = self.tuning
            recipe = folder / "recipes" / f"{row.name}-{lr:g}.yaml"
        write_atomic(recipe, self.recipe(row, lr, tuning))
        wishes = replace(
            self.wishes,
            variant=row.variant,
            preset=str(recipe),
            tasks=list(rule.tasks if tuning else self.content.tasks),
            seeds=[rule.seed] if tuning else list(row.seeds),
            results_dir=str(folder),
            job_type="tune" if tuning else "train",
            trainer=(self.content.trainer or {}) | ((rule.trainer or {}) if tuning else {}),
        )
        if self._source is None:  # read once for all plans
            self._source = open_source(wishes)
        here = not (self.launch and self.launch.elsewhere)
        runs = make_plan(wishes, resolve(row.variant), self._source, here).runs
        for run in runs:
            run.budget = row.budget  # what picked the size that the recipe now holds
        return runs

    def recipe(self, row: Row, lr: float, tuning: bool) -> str:
        """A recipe file (configs/README.md) with the learning rate; the file's `tune` may shorten a tuning run."""
        import yaml

        rule = self.content.tune
        tasks = {name: dict(values or {}) for name, values in self.content.tasks.items()}
        if tuning and rule.epochs is not None:
            tasks = {name: values | {"epochs": rule.epochs} for name, values in tasks.items()}
        common = self.content.common | row.common | ((rule.common or {}) if tuning else {}) | {"lr": lr}
        content = {
            "backbone": str(self.wishes.model),
            "protocol": "tuned",
            "source": "ours",
            "remarks": [f"learning rate picked by {self.path}"],
            "seeds": list(row.seeds),
            "variants": {resolve(row.variant).name: {"options": row.options, "common": common, "tasks": tasks}},
        }
        return yaml.safe_dump(content, sort_keys=False)

    def carry_out(self, runs: list[RunConfig], folder: Path) -> int:
        """Do what is missing of ``runs``; the exit code."""
        groups = self.missing(runs, folder)
        begin([run for group in groups for run in group])
        for run in (run for group in groups for run in group):
            run.write()
        code = carry_out(groups, str(folder), self.launch, self.jobs, self.content.trainer or {}, self.stack)
        return max(code, say_what_is_missing(runs, folder))

    def missing(self, runs: list[RunConfig], folder: Path) -> list[list[RunConfig]]:
        """What is not done yet, those that are stacked together: the longest first, so that workers end together, and
        row by row, so that what a killed comparison leaves is complete rows."""
        store = ResultStore(folder)
        unique = {run.id: run for run in runs}
        missing = [run for run in unique.values() if not store.done(run.id)]
        groups = stacks(missing, where_possible=True) if self.stack else [[run] for run in missing]
        at_once = f", in {len(groups)} stacks" if len(groups) < len(missing) else ""
        print(f"{folder}: {len(unique)} runs, {len(unique) - len(missing)} done before{at_once}", flush=True)
        return sorted(groups, key=lambda group: -self.steps(group[0]) * len(group))

    def steps(self, run: RunConfig) -> int:
        """Optimizer steps of a run."""
        settings = settings_of(run)
        steps = math.ceil(self._source.sizes[run.task]["train"] / settings.batch_size)
        limit = run.trainer.get("limit_train_batches", 1.0)
        return (int(steps * limit) if isinstance(limit, float) else min(steps, limit)) * settings.epochs

    # ---- the two steps ----------------------------------------------------------------------------------------

    def tuning_runs(self, rows: list[Row]) -> dict[tuple[str, float], list[RunConfig]]:
        """(name of a row, learning rate of its grid) -> runs that say how good it is; rows of one rate have none."""
        grids = [row for row in rows if len(row.grid) > 1]
        return {(row.name, lr): self.runs(row, lr, tuning=True) for row in grids for lr in row.grid}

    def tune(self, rows: list[Row]) -> tuple[dict[str, float], int]:
        """(learning rate of each row, exit code); a row whose grid is not complete is left out, and named."""
        runs = self.tuning_runs(rows)
        code = self.carry_out([run for group in runs.values() for run in group], self.tuning) if runs else 0
        chosen = self.choose(rows, runs)
        return chosen, code if len(chosen) == len(rows) else code or 1

    def choose(self, rows: list[Row], runs: dict[tuple[str, float], list[RunConfig]]) -> dict[str, float]:
        """The learning rate of each row whose grid is complete."""
        store, chosen = ResultStore(self.tuning), {}
        for row in rows:
            if len(row.grid) == 1:
                chosen[row.name] = row.grid[0]
                continue
            figures = {}
            for lr in row.grid:
                results = [store.read(run.id) for run in runs[row.name, lr]]
                if all(results):
                    figures[lr] = fmean(self.figure(result) for result in results)
                    print(f"tuning: {row.name} lr {lr:g}: {figures[lr]:.4f}", flush=True)
            if len(figures) == len(row.grid) and max(figures.values()) > -math.inf:
                chosen[row.name] = max(figures, key=figures.get)
            else:
                print(f"{row.name} is left out: {len(figures)} of {len(row.grid)} learning rates tried", flush=True)
        return chosen

    def show_plan(self, rows: list[Row]) -> int:
        """Say which runs are missing, row by row, and their steps; nothing trains. The exit code."""
        tuning = self.tuning_runs(rows)
        self._show(
            {row.name: [r for lr in row.grid for r in tuning.get((row.name, lr), ())] for row in rows}, self.tuning
        )
        chosen = self.choose(rows, tuning)  # a row that is not tuned yet counts with whatever rate
        runs = {row.name: self.runs(row, chosen.get(row.name, row.grid[0])) for row in rows}
        self._show(runs, self.results_dir)
        return 0

    def _show(self, runs: dict[str, list[RunConfig]], folder: Path) -> None:
        names = {run.id: name for name, own in runs.items() for run in own}
        total = Counter()
        for group in self.missing([run for own in runs.values() for run in own], folder):
            first, steps = group[0], self.steps(group[0])
            total.update(groups=1, runs=len(group), steps=steps)
            seeds = ",".join(str(run.seed) for run in group)
            print(f"  {first.task} {names[first.id]} lr {settings_of(first).lr:g} seed {seeds}: {steps:,} steps")
        print(f"  {total['runs']} runs are missing, {total['steps']:,} steps if stacked seeds count once", flush=True)

    def figure(self, result: RunResult) -> float:
        """What tuning compares, higher is better: the run's best dev metric, or with `metric: loss` its lowest loss."""
        name = self.content.tune.metric or result.metric
        values = [epoch.get(name) for epoch in result.epochs]
        values = [value for value in values if value is not None and math.isfinite(value)]
        if not values or result.diverged:
            return -math.inf
        return -min(values) if name == "loss" else max(values)
