"""From a command's wishes to runs: the backbone, the data, the recipes, and the grid of tasks and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.benchmarks.recipes import Recipe, RecipeFile, load_file, recipes_for, recipes_in
from modules.data.source import Source
from modules.experiments.announcement import recipe_line
from modules.experiments.budget import line, pick
from modules.experiments.wishes import Wishes
from modules.runs.config import CHECKPOINTING, COMPILE, RunConfig
from modules.runs.tracking import check_tracking
from modules.runs.trainer_options import check_trainer
from variants.errors import UserError
from variants.outside.files import code_hash
from variants.outside.options import build
from variants.schemes import check_installed
from variants.variant import BaseVariant


@dataclass
class Plan:
    """Runs in an order in which each comes after the one it starts from, and lines that say what was chosen."""

    runs: list[RunConfig]
    about: list[str]


def make_plan(
    wishes: Wishes,
    cls: type[BaseVariant],
    source: Source | None = None,
    here: bool = True,
    recipe: RecipeFile | None = None,
) -> Plan:
    """Resolve everything once (the Hub is asked at most once) and expand the grid of tasks and seeds.

    Args:
        cls: the class that the wishes' variant names.
        source: of the rows, where several plans share one that is already read (`open_source`).
        here: whether the runs are carried out on this machine.
        recipe: the content of the file that the wishes' preset names, where it need not be there yet.

    Raises:
        UserError, VariantError: one line for whatever cannot be.
    """
    check_wishes(wishes, here)
    benchmark = wishes.benchmark
    if unknown := [t for t in wishes.tasks if t not in benchmark.tasks]:
        raise UserError(f"unknown task {unknown[0]!r}; the tasks are {', '.join(benchmark.tasks)}")
    about: list[str] = []
    model, preset = (wishes.model, wishes.preset) if recipe else choose_model(wishes, about)
    from modules.backbones.heads import pretrained_parts
    from modules.backbones.weights import weights_hash

    name, kind, folder = benchmark.backbone(model)
    backbone = {"source": kind, "name": name, "spec": model, "hash": weights_hash(folder)}
    if parts := pretrained_parts(folder):
        backbone["frozen"] = parts
    source = source or benchmark.source(kind, wishes.data_dir)
    about.append(f"backbone: {name} ({kind})   data: {source.name} ({source.kind})")
    runs: dict[str, RunConfig] = {}
    wishes = dataclasses.replace(wishes, preset=preset)
    if recipe:
        recipes = recipes_in(recipe, cls.name, wishes.tasks)
    else:
        known, usual = "embedded" if kind == "embedded" else name, benchmark.usual_tasks(kind)
        recipes = recipes_for(known, preset, cls.name, benchmark, wishes.tasks, wishes.mnli_init, usual)
    about.append(recipe_line(list(recipes.values())))
    budget = None
    if wishes.budget is not None:
        first = next(iter(recipes.values()))
        variant = build(cls, first.options | wishes.options)
        sizes, budget = pick(folder, benchmark.auto_class, variant, wishes.budget)
        if both := [name for name in sizes if name in wishes.options]:
            raise UserError(f"--budget picks {both[0]} of {cls.name}: give either --budget or --{both[0]}")
        wishes = dataclasses.replace(wishes, options=wishes.options | sizes)
        about.append(line(cls.name, sizes, budget))
    for recipe in recipes.values():
        for seed in wishes.seeds or recipe.seeds:
            _add(runs, wishes, cls, recipe, seed, backbone=backbone, source=source, budget=budget)
    if any(run.init_from for run in runs.values()):
        first_title = benchmark.tasks[benchmark.first_task].title
        about.append(f"{benchmark.later_words} start from the {first_title} run of the same seed, which is run first")

    def place(run: RunConfig) -> tuple[bool, int]:
        """A run before those that start from it; else the longest first, so that workers end at about the same time."""
        return run.init_from is not None, -run.training["epochs"] * source.sizes[run.task]["train"]

    order = sorted(runs.values(), key=place)
    notes = [f"{benchmark.tasks[task].title}: {note}" for task, notes in source.notes.items() for note in notes]
    return Plan(order, list(dict.fromkeys([*about, *notes])))


def check_wishes(wishes: Wishes, here: bool) -> None:
    """Raise UserError for what no run could be given, whatever its model and data; ``here`` as `make_plan` has it."""
    check_trainer(wishes.trainer, here)
    if wishes.compile not in COMPILE:
        raise UserError(f"--compile must be one of {', '.join(COMPILE)}, not {wishes.compile!r}")
    if wishes.gradient_checkpointing not in CHECKPOINTING:
        words = ", ".join(CHECKPOINTING)
        raise UserError(f"--gradient_checkpointing must be one of {words}, not {wishes.gradient_checkpointing!r}")
    check_tracking(wishes)


def choose_model(wishes: Wishes, about: list[str]) -> tuple[str, str]:
    """(model spec, protocol) from --preset and --model; tells in ``about`` what was chosen and why."""
    preset, model, benchmark = wishes.preset, wishes.model, wishes.benchmark
    if preset not in benchmark.presets and not preset.endswith((".yaml", ".yml")):
        raise UserError(f"unknown preset {preset!r}; choose {', '.join(benchmark.presets)}, or a recipe file")
    if preset not in benchmark.presets:
        load_file(Path(preset), benchmark)  # before a model is looked for
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


def open_source(wishes: Wishes) -> Source:
    """The rows' source for wishes that name their model: read once, it serves many plans."""
    return wishes.benchmark.source(wishes.benchmark.backbone(wishes.model)[1], wishes.data_dir)


def _add(
    runs: dict[str, RunConfig],
    wishes: Wishes,
    cls: type[BaseVariant],
    recipe: Recipe,
    seed: int,
    **found: Any,
) -> RunConfig:
    """Add one run to ``runs``, and before it the run that it starts from; the run.

    Args:
        found: backbone, budget and source, which all runs of a plan share.
    """
    task, benchmark, source = recipe.task, wishes.benchmark, found["source"]
    before = _add(runs, wishes, cls, recipe.start, seed, **found) if recipe.start else None
    training, variant = settings(wishes, cls, recipe)
    overrides = {k: v for k, v in wishes.training.items() if recipe.training.get(k) != v}
    overrides |= {k: v for k, v in wishes.options.items() if recipe.options.get(k) != v}
    benchmark.labelled(benchmark.tasks[task], source, training)  # or says what does not belong together
    run = RunConfig(
        benchmark=benchmark.spec,
        task=task,
        variant=wishes.variant,
        options=variant.options(),
        protocol=recipe.protocol,
        seed=seed,
        backbone=found["backbone"],
        data={
            "source": source.kind,
            "name": source.name,
            "spec": source.spec,
            "hash": source.hash(benchmark.tasks[task]),
        },
        training=training,
        init_from={"task": before.task, "id": before.id} if before else None,
        code=code_hash(cls),
        benchmark_code=benchmark.code,
        overrides=overrides,
        budget=found["budget"],
        command=wishes.command(task, seed),
        variant_name=cls.name,
        **wishes.execution() | {"results_dir": str(Path(wishes.results_dir))},
    )
    return runs.setdefault(run.id, run)


def settings(wishes: Wishes, cls: type[BaseVariant], recipe: Recipe) -> tuple[dict[str, Any], BaseVariant]:
    """(training settings, variant) of a run: the recipe's, with what was set by hand."""
    training = dict(recipe.training)
    if "warmup_steps" in wishes.training:
        training.pop("warmup_ratio", None)
    training |= wishes.training
    known = wishes.benchmark.settings
    known.check(training, "settings")
    training["precision"] = str(wishes.trainer.get("precision", "32-true"))
    known.of(training)  # none that a run needs is lacking
    if training.get("quantise"):
        check_installed()
    return training, build(cls, recipe.options | wishes.options)


def merge(plans: Sequence[Plan]) -> Plan:
    """Several plans as one: each run once, a run before those that start from it."""
    runs = {run.id: run for plan in plans for run in plan.runs}
    about = dict.fromkeys(line for plan in plans for line in plan.about)
    return Plan(sorted(runs.values(), key=lambda run: run.init_from is not None), list(about))
