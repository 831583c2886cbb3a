"""A comparison of variants from a file: its rows, and the runs of each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from modules.benchmarks.base import Benchmark, settings_of
from modules.benchmarks.recipes import checked_file
from modules.comparison.file import ComparisonFile, split
from modules.comparison.shared import give_back, take_over, tell_trained
from modules.comparison.space import Dimension, Point, words
from modules.data.source import Source
from modules.documents import parse_yaml
from modules.experiments.budget import line, pick
from modules.experiments.dashboards import begin
from modules.experiments.plan import make_plan, open_source
from modules.experiments.stacking import stacks
from modules.experiments.wishes import Wishes
from modules.launch.claims import alone
from modules.launch.holders import say_what_is_missing
from modules.launch.jobs.launch import Launch, carry_out
from modules.launch.progress_line import runs_text
from modules.paths import PROJECT
from modules.reports.tables.rate_curves import RULE, TUNING, Rule
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from variants.atomic import write_atomic
from variants.errors import UserError, VariantError
from variants.outside.options import build
from variants.registry import resolve

NEAR = 0.5  # how far from a budget, as a share of it, a size may be and still count as one of that budget


@dataclass(frozen=True)
class Row:
    """A row of the comparison: one variant with one set of options.

    Attributes:
        options, common, trainer: its settings that have one value, those of the whole file included.
        space: the others, of which a point is chosen.
        seeds: of its runs; none where the file is a search alone.
        budget: trained parameters, wanted and counted, where --budget picks the size.
    """

    name: str
    variant: str
    options: dict[str, Any]
    common: dict[str, Any]
    trainer: dict[str, Any]
    space: tuple[Dimension, ...]
    seeds: tuple[int, ...]
    budget: dict[str, int] | None = None

    def at(self, point: Point) -> Row:
        """The row with the values of a point; without a dimension."""
        chosen: dict[str, dict[str, Any]] = {"options": {}, "common": {}, "trainer": {}}
        for each in self.space:
            chosen[each.place][each.name] = point[each.key]
        settings = {place: getattr(self, place) | values for place, values in chosen.items()}
        return replace(self, space=(), **settings)


@dataclass
class Comparison:
    """A comparison file, and what the command line adds to it.

    Attributes:
        path, content: of the file.
        wishes: of the command line, for every run: model, data, results folder and how runs are carried out.
        jobs: runs at once; None for one for each GPU or core.
        stack: train seeds at once where the variant can be stacked.
        stack_rates: if above 0, the learning rates of a search too, so many runs at most in a stack.
        code: the variants from outside (``FILE.py:CLASS``) that the caller has named: a file brings no code.
        launch: jobs of a scheduler in place of workers.
        begun: ids of the runs that were missing when they were to be carried out.
    """

    path: Path
    content: ComparisonFile
    wishes: Wishes
    jobs: int | None = 1
    stack: bool = False
    stack_rates: int = 0
    code: frozenset[str] = frozenset()
    launch: Launch | None = None
    begun: set[str] = field(default_factory=set, repr=False)
    _source: Source | None = field(default=None, repr=False)
    _planned: dict[tuple[str, str, bool], list[RunConfig]] = field(default_factory=dict, repr=False)
    _recipes: dict[tuple[str, Path], dict[Path, str]] = field(default_factory=dict, repr=False)

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
        return self.results_dir / TUNING

    @property
    def folder(self) -> Path:
        """The backbone's."""
        return self._backbone[2]

    @cached_property
    def _backbone(self) -> tuple[str, str, Path]:
        return self.benchmark.backbone(self.wishes.model)

    @property
    def backbone(self) -> str:
        """The backbone's name, which does not depend on where its folder lies; of what ships with the project the words
        by which it is named."""
        name, kind, _ = self._backbone
        return str(self.wishes.model) if kind == "embedded" else name

    @property
    def name(self) -> str:
        """The file's, from the project's folder where it ships with it."""
        path = self.path.resolve()
        return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else path.name

    # ---- rows -------------------------------------------------------------------------------------------------

    def rows(self, names: list[str] | None = None, budgets: list[str] | None = None) -> list[Row]:
        """Rows of the file, in its order; with budgets one for each of them where the variant has a size.

        Raises:
            UserError: the file has no such row, its variant is code that nobody has named, or refuses an option.
        """
        entries = self.content.variants
        if unknown := [name for name in names or () if name not in entries]:
            raise UserError(f"{self.path} has no variant {unknown[0]!r}; it has {', '.join(entries)}")
        rows = [self._row(name) for name in names or entries]
        return [sized for row in rows for sized in self._sized(row, budgets or [])]

    def _row(self, name: str) -> Row:
        entry = self.content.variants[name]
        variant = entry.variant or name
        if ":" in variant and variant not in self.code:
            raise UserError(
                f"a file brings no code, and {self.path}: {name!r} names {variant!r}: if you trust that code, name it "
                f"yourself: --code {variant}"
            )
        where = f"{self.path}: variants: {name}"
        fixed, space = split(self.content.settings(name, str(self.path)), where)
        seeds = self.content.seeds if entry.seeds is None else entry.seeds
        row = Row(name, variant, **fixed, space=space, seeds=tuple(seeds or ()))
        for each in (each for each in space if each.place == "options"):
            for value in each.examples:
                try:
                    build(resolve(variant), row.options | {each.name: value})
                except VariantError as error:
                    raise UserError(f"{where}: options: {error}") from None
        return row

    def _sized(self, row: Row, budgets: list[str]) -> list[Row]:
        if not budgets:
            return [row]
        cls = resolve(row.variant)
        if not cls.size:
            print(f"budget: {row.name} has no size that a budget could set, and stays as it is", flush=True)
            return [row]
        if searched := [each.name for each in row.space if each.place == "options"]:
            raise UserError(
                f"{self.path}: variants: {row.name}: --budget picks the size for given options, and {searched[0]} has "
                "several values: give each a row of its own"
            )
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

    def runs(self, row: Row, point: Point, tuning: bool = False) -> list[RunConfig]:
        """The runs of a row at a point of its space; their recipe file is written when they are carried out."""
        key = row.name, repr(point), tuning
        if key not in self._planned:
            self._planned[key] = self._plan(row.at(point), words(point), tuning)
        return self._planned[key]

    def _plan(self, row: Row, point: str, tuning: bool) -> list[RunConfig]:
        rule = self.content.tune
        folder = self.tuning if tuning else self.results_dir
        trial = "-" + re.sub(r"[^\w.+=,-]+", "_", point)[:150] if tuning else ""
        recipe, text = folder / "recipes" / f"{row.name}{trial}.yaml", self.recipe(row, tuning)
        wishes = replace(
            self.wishes,
            variant=row.variant,
            preset=str(recipe),
            tasks=list(rule.tasks if tuning else self.content.tasks),
            seeds=list(rule.trained if tuning else row.seeds),
            results_dir=str(folder),
            job_type="tune" if tuning else "train",
            trainer=self.content.for_all | row.trainer | ((rule.trainer or {}) if tuning else {}),
        )
        if self._source is None:  # read once for all plans
            self._source = open_source(wishes)
        here = not (self.launch and self.launch.elsewhere)
        content = checked_file(parse_yaml(text, recipe), recipe, self.benchmark)
        runs = make_plan(wishes, resolve(row.variant), self._source, here, content).runs
        for run in runs:
            self._recipes.setdefault((run.id, folder), {})[recipe] = text
            run.budget = row.budget  # what picked the size that the recipe now holds
        return runs

    def recipe(self, row: Row, tuning: bool) -> str:
        """A recipe file (configs/README.md) of a row without dimensions; `tune` may shorten a tuning run."""
        import yaml

        rule = self.content.tune
        tasks = {name: dict(values or {}) for name, values in self.content.tasks.items()}
        if tuning and rule.epochs is not None:
            tasks = {name: values | {"epochs": rule.epochs} for name, values in tasks.items()}
        common = row.common | ((rule.common or {}) if tuning else {})
        content = {
            "backbone": self.backbone,
            "protocol": "tuned",
            "source": "ours",
            "remarks": [f"settings picked by {self.name}"],
            "seeds": list(row.seeds) or [0],
            "variants": {resolve(row.variant).name: {"options": row.options, "common": common, "tasks": tasks}},
        }
        return yaml.safe_dump(content, sort_keys=False)

    def say_rule(self, trials: Mapping[str, Iterable[RunConfig]]) -> None:
        """Leave beside the trials by which rule a setting is chosen, and among which of them: those of each row.

        What other commands have said of other rows stays.
        """
        among = {name: " ".join(dict.fromkeys(run.id for run in runs)) for name, runs in trials.items()}
        with alone(self.tuning / "rule"):
            before = Rule.of(self.tuning).among
            rule = Rule(self.content.tune.metric, dict(sorted((before | among).items())))
            write_atomic(self.tuning / RULE, json.dumps(asdict(rule), indent=1) + "\n")

    def carry_out(self, runs: list[RunConfig], folder: Path) -> int:
        """Leave the recipes of ``runs``, and do what is missing of them; the exit code."""
        for recipe, text in {k: v for run in runs for k, v in self._recipes[run.id, folder].items()}.items():
            write_atomic(recipe, text)
        for run in runs:
            take_over(run.id, self._other(folder), ResultStore(folder))
        groups = self.missing(runs, folder)
        begin([run for group in groups for run in group])
        for run in (run for group in groups for run in group):
            run.write()
            self.begun.add(run.id)
        code = carry_out(groups, str(folder), self.launch, self.jobs, self.content.for_all, self.stack)
        return max(code, say_what_is_missing(runs, folder))

    def leave_out(self, chosen: list[RunConfig], tried: list[RunConfig]) -> None:
        """Take trials that are no longer a chosen setting's out of the comparison's own runs."""
        ids = {run.id for run in tried} - {run.id for run in chosen}
        give_back(ids, ResultStore(self.tuning), ResultStore(self.results_dir))

    def missing(self, runs: list[RunConfig], folder: Path) -> list[list[RunConfig]]:
        """What is not done yet, those that are stacked together: the longest first, so that workers end together, and
        row by row, so that what a killed comparison leaves is complete rows. Those of the
        comparison are told the trials that they are trained as."""
        stores = ResultStore(folder), self._other(folder)
        unique = {run.id: run for run in runs}
        missing = [run for run in unique.values() if not any(store.done(run.id) for store in stores)]
        if folder != self.tuning:
            tell_trained(missing, [run for key, own in self._planned.items() if key[2] for run in own])
        groups = stacks(missing, True, self.stack_rates) if self.stack else [[run] for run in missing]
        at_once = f", in {len(groups)} stack{'s' * (len(groups) > 1)}" if len(groups) < len(missing) else ""
        print(f"{folder}: {runs_text(len(unique))}, {len(unique) - len(missing)} done before{at_once}", flush=True)
        return sorted(groups, key=lambda group: -self.steps(group[0]) * len(group))

    def _other(self, folder: Path) -> ResultStore:
        """The results among which a run of ``folder`` may lie already: a trial is often a run of the comparison."""
        return ResultStore(self.results_dir if folder == self.tuning else self.tuning)

    def steps(self, run: RunConfig) -> int:
        """Optimizer steps of a run; none of one that is scored alone."""
        if run.trained_as:
            return 0
        settings = settings_of(run)
        steps = settings.steps_per_epoch(self._source.sizes[run.task]["train"])
        limit = run.trainer.get("limit_train_batches", 1.0)
        return (int(steps * limit) if isinstance(limit, float) else min(steps, limit)) * settings.epochs
