"""With which settings a backbone is trained: `configs/<benchmark>/<backbone>/<protocol>.yaml`.

`configs/README.md` explains the files. A value for one task wins over the variant's, which wins over the file's.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import yaml

from modules.benchmarks.base import Benchmark, Setting
from modules.benchmarks.glue import GLUE
from variants.errors import UserError

_FILE_KEYS = {"backbone", "protocol", "source", "remarks", "seeds", "common", "variants"}
_VARIANT_KEYS = {"source", "remarks", "options", "mnli_init", "common", "tasks"}


@dataclass(frozen=True)
class Recipe:
    """The settings of one run, and where they come from."""

    backbone: str
    protocol: str
    variant: str
    task: str
    training: dict[str, Any]
    options: dict[str, Any]
    seeds: tuple[int, ...]
    mnli_init: bool  # whether this task starts from the weights of the MNLI run
    source: str
    remarks: tuple[str, ...] = field(default=())


class NoRecipe(UserError):
    """There is no recipe for what was asked; the line names what there is."""


def load_recipe(backbone: str, protocol: str, variant: str, task: str, benchmark: Benchmark = GLUE) -> Recipe:
    """The recipe for one run.

    `backbone` is a folder's name under the benchmark's `configs`, with or without an owner
    ("FacebookAI/roberta-base"). `protocol` is a file's name there, "default" (for every backbone), "auto" (what fits
    best: embedded for the embedded backbone, else paper, else default), or the path of a recipe file of one's own.

    Raises NoRecipe where there is none, UserError where a file is malformed.
    """
    if protocol == "auto":
        for choice in ("embedded", "paper"):
            try:
                return load_recipe(backbone, choice, variant, task, benchmark)
            except NoRecipe:
                continue
        protocol = "default"
    path = _path(backbone, protocol, benchmark.configs)
    content = load_file(path, benchmark)
    entry = content["variants"].get(variant, content["variants"].get("default"))
    if entry is None:
        raise NoRecipe(
            f"{path} has no recipe for the variant {variant!r}, only for {', '.join(content['variants'])}; "
            "use --preset default"
        )
    tasks = entry.get("tasks", {})
    if tasks and task not in tasks:
        raise NoRecipe(
            f"{path} has no recipe for {variant} on {task!r}, only for {', '.join(tasks)}; use --preset default"
        )
    return _merge(content, entry, variant, task)


def load_file(path: Path, benchmark: Benchmark = GLUE) -> dict[str, Any]:
    """Read and check one file. Raises UserError naming the file and the key that is wrong."""
    return _load(Path(path), Path(path).stat().st_mtime_ns, benchmark)


@lru_cache
def _load(path: Path, _modified: int, benchmark: Benchmark) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    _known(content, _FILE_KEYS, str(path))
    if missing := sorted({"backbone", "protocol", "source", "variants"} - set(content)):
        raise UserError(f"{path}: {missing[0]!r} is missing")
    settings = benchmark.settings
    check_training(content.get("common", {}), f"{path}: common", settings)
    for name, entry in content["variants"].items():
        where = f"{path}: {name}"
        _known(entry, _VARIANT_KEYS, where)
        check_training(entry.get("common", {}), f"{where}: common", settings)
        for task, values in entry.get("tasks", {}).items():
            _known({task: None}, set(benchmark.tasks), where)
            check_training({k: v for k, v in values.items() if k != "options"}, f"{where}: {task}", settings)
        _known(dict.fromkeys(entry.get("mnli_init", [])), set(benchmark.tasks) - {"mnli"}, f"{where}: mnli_init")
    return content


def _merge(content: dict, entry: dict, variant: str, task: str) -> Recipe:
    own = dict(entry.get("tasks", {}).get(task, {}))
    options = {**entry.get("options", {}), **own.pop("options", {})}
    training = {**content.get("common", {}), **entry.get("common", {}), **own}
    if "warmup_steps" in own:  # a task's warm-up in steps replaces one given as a ratio, and the other way round
        training.pop("warmup_ratio", None)
    elif "warmup_ratio" in own:
        training.pop("warmup_steps", None)
    return Recipe(
        backbone=content["backbone"],
        protocol=content["protocol"],
        variant=variant,
        task=task,
        training=training,
        options=options,
        seeds=tuple(content.get("seeds", (0,))),
        mnli_init=task in entry.get("mnli_init", ()),
        source=entry.get("source", content["source"]),
        remarks=(*content.get("remarks", ()), *entry.get("remarks", ())),
    )


def _path(backbone: str, protocol: str, root: Path) -> Path:
    if protocol.endswith((".yaml", ".yml")):
        if not Path(protocol).is_file():
            raise NoRecipe(f"there is no recipe file {protocol}")
        return Path(protocol)
    folder = "default" if protocol == "default" else PurePath(backbone).name
    path = root / folder / f"{protocol}.yaml"
    if not path.is_file():
        names = sorted(f"{file.stem} for {file.parent.name}" for file in root.glob("*/*.yaml"))
        raise NoRecipe(f"no recipe {protocol!r} for the backbone {folder!r}; there are: {', '.join(names)}")
    return path


def _known(content: Any, names: set[str], where: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where}: expected keys and values, found {content!r}")
    for key in content:
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1) or sorted(names)
            raise UserError(f"{where}: unknown key {key!r}; did you mean {' or '.join(close)}?")


def check_training(values: Any, where: str, settings: Mapping[str, Setting]) -> None:
    """Raise UserError, naming `where` and the key, on a training setting that is unknown or out of range."""
    _known(values, set(settings), where)
    for key, value in values.items():
        setting = settings[key]
        if setting.kind is str:
            if value not in setting.choices:
                raise UserError(f"{where}: {key} must be one of {', '.join(setting.choices)}, got {value!r}")
            continue
        fits = isinstance(value, (int, float) if setting.kind is float else int) and not isinstance(value, bool)
        if not fits or value < 0 or (value == 0 and not setting.zero):
            hint = "; YAML reads 5e-4 as text, write 5.0e-4" if isinstance(value, str) else ""
            raise UserError(
                f"{where}: {key} must be a {'non-negative' if setting.zero else 'positive'} "
                f"{'number' if setting.kind is float else 'whole number'}, got {value!r}{hint}"
            )
