"""With which settings a backbone is trained: `configs/<benchmark>/<backbone>/<protocol>.yaml`.

`configs/README.md` explains the files. A value for one task wins over the variant's, which wins over the file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.benchmarks.settings import TrainingSettings
from modules.documents import modified, read_yaml
from variants.errors import UserError
from variants.schema import Seed, built, check_keys


@dataclass(frozen=True, kw_only=True)
class VariantEntry:
    """What a recipe file says of one variant; `tasks` holds training settings by task, and `options` of the variant."""

    source: str = ""
    remarks: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    mnli_init: tuple[str, ...] = ()
    common: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """The content of a recipe file: see `configs/README.md`."""

    backbone: str
    protocol: str
    source: str
    remarks: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = (0,)
    common: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, VariantEntry]


@dataclass(frozen=True)
class Recipe:
    """The settings of one run, and where they come from.

    Attributes:
        backbone, protocol: as the file names them.
        training: the training settings that the file gives; the benchmark's dataclass has the defaults of the others.
        options: of the variant.
        seeds: of the runs of a cell.
        mnli_init: whether the file has this task start from the weights of the benchmark's first task (GLUE: MNLI).
        start: the recipe of the run that this one starts from, where it does; `recipes_for` settles it.
        source: where the values were printed or published; `ours` where nowhere.
        remarks: doubts, and differences from other protocols.
    """

    backbone: str
    protocol: str
    variant: str
    task: str
    training: dict[str, Any]
    options: dict[str, Any]
    seeds: tuple[int, ...]
    mnli_init: bool
    source: str
    remarks: tuple[str, ...] = field(default=())
    start: Recipe | None = None


class NoRecipe(UserError):
    """There is no recipe for what was asked; the line names what there is."""


def recipes_for(
    backbone: str,
    protocol: str,
    variant: str,
    benchmark: Benchmark,
    tasks: Sequence[str] = (),
    mnli_init: bool | None = None,
    usual: Sequence[str] = (),
) -> dict[str, Recipe]:
    """The recipe of each task that is to be run, by the task's name.

    Args:
        backbone, protocol: as `load_recipe` takes them.
        tasks: to be run; none named: all that one protocol has a recipe for, since a row of a table is of one protocol.
        usual: those among which protocols are asked where none is named; empty: all of the benchmark's.
        mnli_init: whether tasks start from the run of the benchmark's first task; None leaves it to the recipes.

    Raises:
        NoRecipe: a named task has none, or no task has.
        UserError: a file is malformed.
    """
    if tasks:
        recipes = {task: load_recipe(backbone, protocol, variant, task, benchmark) for task in tasks}
    else:
        found = {task: _find(backbone, protocol, variant, task, benchmark) for task in usual or benchmark.tasks}
        recipes = {task: recipe for task, recipe in found.items() if isinstance(recipe, Recipe)}
        if not recipes:
            raise NoRecipe(next(iter(found.values())))
        own = next((r.protocol for r in recipes.values() if r.protocol != "default"), "default")
        recipes = {task: recipe for task, recipe in recipes.items() if recipe.protocol == own}
    for task, recipe in recipes.items():
        if recipe.mnli_init if mnli_init is None else mnli_init and task in benchmark.later_tasks:
            start = load_recipe(recipe.backbone, protocol, variant, benchmark.first_task, benchmark)
            recipes[task] = replace(recipe, start=start)
    return recipes


def recipes_in(content: RecipeFile, variant: str, tasks: Sequence[str]) -> dict[str, Recipe]:
    """The recipes of tasks in a file's content that names the variant, by the task's name; each starts anew."""
    return {task: _merge(content, content.variants[variant], variant, task) for task in tasks}


def load_recipe(backbone: str, protocol: str, variant: str, task: str, benchmark: Benchmark) -> Recipe:
    """The recipe for one run.

    Args:
        backbone: a folder's name under the benchmark's `configs`, with or without an owner ("FacebookAI/roberta-base").
        protocol: a file's name there, "default" (for every backbone), "auto" (the best fit: embedded for the embedded
            backbone, else paper, else default), or the path of your own recipe file.

    Raises:
        NoRecipe: there is none.
        UserError: a file is malformed.
    """
    found = _find(backbone, protocol, variant, task, benchmark)
    if isinstance(found, str):
        raise NoRecipe(found)
    return found


def _find(backbone: str, protocol: str, variant: str, task: str, benchmark: Benchmark) -> Recipe | str:
    """The recipe for one run, or why there is none."""
    reason = ""
    for name in ("embedded", "paper", "default") if protocol == "auto" else (protocol,):
        path, reason = _path(backbone, name, benchmark.configs)
        if reason:
            continue
        content = load_file(path, benchmark)
        entry = content.variants.get(variant, content.variants.get("default"))
        if entry is None:
            known = ", ".join(content.variants)
            reason = f"{path} has no recipe for the variant {variant!r}, only for {known}; use --preset default"
            continue
        if not entry.tasks or task in entry.tasks:
            return _merge(content, entry, variant, task)
        known = ", ".join(entry.tasks)
        reason = f"{path} has no recipe for {variant} on {task!r}, only for {known}; use --preset default"
    return reason


def load_file(path: Path, benchmark: Benchmark) -> RecipeFile:
    """Read and check one file. Raises UserError naming the file and the key that is wrong."""
    path = Path(path).expanduser()
    return _load(path, modified(path), benchmark)


@lru_cache
def _load(path: Path, _modified: int, benchmark: Benchmark) -> RecipeFile:
    return checked_file(read_yaml(path), path, benchmark)


def checked_file(content: Any, path: Path, benchmark: Benchmark) -> RecipeFile:
    """The content of a recipe file that is to stand at a path. Raises UserError naming the key that is wrong."""
    content = built(RecipeFile, content, str(path))
    settings = benchmark.settings
    settings.check(content.common, f"{path}: common")
    later = set(benchmark.tasks) - {benchmark.first_task}
    for name, entry in content.variants.items():
        where = f"{path}: {name}"
        settings.check(entry.common, f"{where}: common")
        check_keys(entry.tasks, benchmark.tasks, where)
        check_keys(dict.fromkeys(entry.mnli_init), later, f"{where}: mnli_init")
        for task, values in entry.tasks.items():
            _check_task(settings, values, f"{where}: {task}")
    return content


def _check_task(settings: type[TrainingSettings], values: dict[str, Any], where: str) -> None:
    if not isinstance(values.get("options", {}), dict):
        raise UserError(f"{where}: options must be keys and values, not {values['options']!r}")
    settings.check({name: value for name, value in values.items() if name != "options"}, where)


def _merge(content: RecipeFile, entry: VariantEntry, variant: str, task: str) -> Recipe:
    own = dict(entry.tasks.get(task, {}))
    options = {**entry.options, **own.pop("options", {})}
    training = {**content.common, **entry.common, **own}
    if "warmup_steps" in own:  # a task's warm-up in steps replaces one given as a ratio, and the other way round
        training.pop("warmup_ratio", None)
    elif "warmup_ratio" in own:
        training.pop("warmup_steps", None)
    return Recipe(
        backbone=content.backbone,
        protocol=content.protocol,
        variant=variant,
        task=task,
        training=training,
        options=options,
        seeds=content.seeds,
        mnli_init=task in entry.mnli_init,
        source=entry.source or content.source,
        remarks=(*content.remarks, *entry.remarks),
    )


def _path(backbone: str, protocol: str, root: Path) -> tuple[Path, str]:
    """(a recipe file, why it cannot be read)."""
    if protocol.endswith((".yaml", ".yml")):
        path = Path(protocol).expanduser()
        return path, "" if path.is_file() else f"there is no recipe file {protocol}"
    folder = "default" if protocol == "default" else PurePath(backbone).name
    path = root / folder / f"{protocol}.yaml"
    if path.is_file():
        return path, ""
    names = sorted(f"{file.stem} for {file.parent.name}" for file in root.glob("*/*.yaml"))
    return path, f"no recipe {protocol!r} for the backbone {folder!r}; there are: {', '.join(names)}"
