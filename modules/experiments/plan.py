"""From the command line's wishes to runs: which backbone, which data, which recipe, which tasks and seeds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.benchmarks.glue import GLUE
from modules.benchmarks.recipes import NoRecipe, Recipe, check_training, load_recipe
from modules.experiments.budget import line, pick
from modules.runs.config import COMPILE, RunConfig, check_trainer, source_hash
from variants.errors import UserError, VariantError
from variants.variant import BaseVariant


@dataclass
class Wishes:
    """What the command line asks for; None or empty where it leaves the choice to the preset."""

    variant: str = "lora"
    options: dict[str, Any] = field(default_factory=dict)
    preset: str = "auto"
    model: str | None = None
    data_dir: str | None = None
    tasks: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    mnli_init: bool | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    results_dir: str = "results"
    wandb: str = "auto"
    compile: str = "auto"
    budget: str | None = None
    benchmark: Benchmark = GLUE
    source: Any = None  # of the rows, where several plans share one that is already read (`open_source`)


@dataclass
class Plan:
    """Runs in an order in which each comes after the one it starts from, and lines that say what was chosen."""

    runs: list[RunConfig]
    about: list[str]


def make_plan(wishes: Wishes, cls: type[BaseVariant]) -> Plan:
    """Resolve everything once (the Hub is asked at most once) and expand the grid of tasks and seeds.

    Raises:
        UserError, VariantError: one line for whatever cannot be.
    """
    check_trainer(wishes.trainer)
    if wishes.compile not in COMPILE:
        raise UserError(f"--compile must be one of {', '.join(COMPILE)}, not {wishes.compile!r}")
    benchmark = wishes.benchmark
    if unknown := [t for t in wishes.tasks if t not in benchmark.tasks]:
        raise UserError(f"unknown task {unknown[0]!r}; the tasks are {', '.join(benchmark.tasks)}")
    about: list[str] = []
    model, preset = choose(wishes, about)
    from modules.backbones.loading import resolve
    from modules.backbones.weights import weights_hash

    name, kind, folder = resolve(model, benchmark.embedded() if model == "embedded" else None)
    backbone = {"source": kind, "name": name, "spec": model, "hash": weights_hash(folder)}
    source = wishes.source or _source(wishes, kind)
    about.append(f"backbone: {name} ({kind})   data: {source.name} ({source.kind})")
    runs: dict[str, RunConfig] = {}
    wishes = dataclasses.replace(wishes, preset=preset)
    known = "embedded" if kind == "embedded" else name
    tasks = wishes.tasks or tasks_with_recipe(known, preset, cls.name, benchmark)
    budget = None
    if wishes.budget is not None:
        recipe = load_recipe(known, preset, cls.name, tasks[0], benchmark)
        variant = build_variant(cls, recipe.options | wishes.options)
        sizes, budget = pick(folder, benchmark.auto_class, variant, wishes.budget)
        if both := [name for name in sizes if name in wishes.options]:
            raise UserError(f"--budget picks {both[0]} of {cls.name}: give either --budget or --{both[0]}")
        wishes = dataclasses.replace(wishes, options=wishes.options | sizes)
        about.append(line(cls.name, sizes, budget))
    for task in tasks:
        recipe = load_recipe(known, preset, cls.name, task, benchmark)
        for seed in wishes.seeds or recipe.seeds:
            _add(runs, wishes, cls, recipe, seed, backbone, source, budget)
    if any(run.init_from for run in runs.values()):
        about.append("MRPC, RTE and STS-B start from the MNLI run of the same seed, which is run first")

    def place(run: RunConfig) -> tuple[bool, int]:
        """MNLI before what starts from it; else the longest first, so that workers end at about the same time."""
        return run.init_from is not None, -run.training["epochs"] * source.sizes[run.task]["train"]

    order = sorted(runs.values(), key=place)
    notes = [f"{benchmark.tasks[task].title}: {note}" for task, notes in source.notes.items() for note in notes]
    return Plan(order, list(dict.fromkeys([*about, *notes])))


def choose(wishes: Wishes, about: list[str]) -> tuple[str, str]:
    """(model spec, protocol) from --preset and --model; tells in ``about`` what was chosen and why."""
    preset, model, benchmark = wishes.preset, wishes.model, wishes.benchmark
    if preset not in benchmark.presets and not preset.endswith((".yaml", ".yml")):
        raise UserError(f"unknown preset {preset!r}; choose {', '.join(benchmark.presets)}, or a recipe file")
    if preset != "auto":
        return model or ("embedded" if preset == "embedded" else benchmark.hub_model), preset
    if model:
        return model, "auto"
    if reason := _no_paper_model(benchmark):
        if wishes.data_dir:
            raise UserError(f"--data_dir needs a backbone: name one with --model, since {reason}")
        about.append(f"embedded source, since {reason}: {benchmark.embedded_note}")
        return "embedded", "embedded"
    about.append(f"a GPU is here and so is {benchmark.model_title}: {benchmark.paper_note}")
    return benchmark.hub_model, "auto"


def _no_paper_model(benchmark: Benchmark) -> str:
    """Why the papers' backbone is not the choice here, or "" where it is."""
    import torch

    from modules.hub import hub_endpoint, hub_reachable

    if not torch.cuda.is_available():
        return "there is no GPU"
    if hub_reachable() or benchmark.hub_cached():
        return ""
    return f"the Hub ({hub_endpoint()}) cannot be reached"


def open_source(wishes: Wishes):
    """The rows' source for wishes that name their model: read once, it serves many plans."""
    from modules.backbones.loading import resolve

    model = wishes.model
    return _source(wishes, resolve(model, wishes.benchmark.embedded() if model == "embedded" else None)[1])


def _source(wishes: Wishes, kind: str):
    if kind == "embedded":
        if wishes.data_dir:
            raise UserError("the embedded backbone knows only the generated tasks: name another with --model")
        return wishes.benchmark.open_source("embedded", None)
    folder = wishes.data_dir or os.environ.get(wishes.benchmark.data_env)
    return wishes.benchmark.open_source("folder" if folder else "hub", folder)


def tasks_with_recipe(backbone: str, preset: str, variant: str, benchmark: Benchmark) -> list[str]:
    """All tasks, or those that the paper has a recipe for: one row is of one protocol."""
    found: dict[str, str] = {}
    for task in benchmark.tasks:
        try:
            found[task] = load_recipe(backbone, preset, variant, task, benchmark).protocol
        except NoRecipe:
            continue
    if not found:
        load_recipe(backbone, preset, variant, next(iter(benchmark.tasks)), benchmark)  # raises, saying what there is
    protocol = next((p for p in found.values() if p != "default"), "default")
    return [task for task in found if found[task] == protocol]


def _add(runs: dict[str, RunConfig], wishes: Wishes, cls, recipe: Recipe, seed: int, backbone, source, budget=None):
    """Add one run to ``runs`` (and first the MNLI run that it starts from, if it does); the run."""
    task, before, benchmark = recipe.task, None, wishes.benchmark
    if from_mnli(wishes, recipe):
        first = load_recipe(recipe.backbone, wishes.preset, cls.name, "mnli", benchmark)
        before = _add(runs, wishes, cls, first, seed, backbone, source, budget)
    training, variant = settings(wishes, cls, recipe)
    overrides = {k: v for k, v in wishes.training.items() if recipe.training.get(k) != v}
    overrides |= {k: v for k, v in wishes.options.items() if recipe.options.get(k) != v}
    run = RunConfig(
        benchmark=benchmark.name,
        task=task,
        variant=wishes.variant,
        options=variant.options(),
        protocol=recipe.protocol,
        seed=seed,
        backbone=backbone,
        data={
            "source": source.kind,
            "name": source.name,
            "spec": str(getattr(source, "folder", "")),
            "hash": source.hash(benchmark.tasks[task]),
        },
        training=training,
        init_from={"task": "mnli", "id": before.id} if before else None,
        code=source_hash(cls),
        overrides=overrides,
        budget=budget,
        trainer=wishes.trainer,
        results_dir=str(Path(wishes.results_dir)),
        wandb=wishes.wandb,
        compile=wishes.compile,
    )
    return runs.setdefault(run.id, run)


def from_mnli(wishes: Wishes, recipe: Recipe) -> bool:
    """Whether the recipe's run starts from the weights of the MNLI run of the same seed."""
    if wishes.mnli_init is None:
        return recipe.mnli_init
    return wishes.mnli_init and recipe.task in ("mrpc", "rte", "stsb")


def settings(wishes: Wishes, cls: type[BaseVariant], recipe: Recipe) -> tuple[dict[str, Any], BaseVariant]:
    """(training settings, variant) of a run: the recipe's, with what was set by hand."""
    training = dict(recipe.training)
    if "warmup_steps" in wishes.training:
        training.pop("warmup_ratio", None)
    training |= wishes.training
    check_training(training, "settings", wishes.benchmark.settings)
    training["precision"] = str(wishes.trainer.get("precision", "32-true"))
    return training, build_variant(cls, recipe.options | wishes.options)


def merge(plans: Sequence[Plan]) -> Plan:
    """Several plans as one: each run once, MNLI before what starts from it."""
    runs = {run.id: run for plan in plans for run in plan.runs}
    about = dict.fromkeys(line for plan in plans for line in plan.about)
    return Plan(sorted(runs.values(), key=lambda run: run.init_from is not None), list(about))


def stacks(runs: Sequence[RunConfig], where_possible: bool = False) -> list[list[RunConfig]]:
    """The runs that differ in their seeds alone, together, in the order of the first of each.

    Args:
        where_possible: leave a run that cannot be stacked to itself.

    Raises:
        UserError: a run cannot be stacked with others.
    """
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        if reason := _why_alone(run):
            if not where_possible:
                raise UserError(reason)
            groups[run.id] = [run]
            continue
        alike = dataclasses.asdict(run) | {"seed": None, "init_from": run.init_from and run.init_from["task"]}
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(run)
    return list(groups.values())


def _why_alone(run: RunConfig) -> str | None:
    """Why a run cannot be stacked with those of other seeds, or None."""
    from variants.adapters.stack import why_not
    from variants.registry import resolve

    if reason := why_not(resolve(run.variant)):
        name = run.variant.rpartition(":")[2]
        return f"--stack_seeds: {name} cannot be stacked, since {reason}; leave the flag out"
    if takes_several(run.trainer):
        return "--stack_seeds trains all seeds on one device: leave it out, or --trainer.devices and such"
    if run.training.get("precision", "").startswith("16"):
        return "--stack_seeds is not for fp16, where one seed's overflow would skip the steps of all"
    return None


def takes_several(trainer: Mapping[str, Any]) -> bool:
    """Whether Trainer options spread one run over several processes."""
    return trainer.get("devices", 1) not in (1, "1") or trainer.get("num_nodes", 1) != 1 or "strategy" in trainer


def build_variant(cls: type[BaseVariant], options: dict[str, Any]) -> BaseVariant:
    """``cls(**options)``, with an option that it does not have named in one line."""
    known = [f.name for f in dataclasses.fields(cls)]
    if unknown := [name for name in options if name not in known]:
        raise VariantError(f"{cls.name} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    return cls(**options)
