"""What a command says before it trains: with which settings, from which recipe, and how many parameters."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from modules.benchmarks.base import Benchmark, settings_of
from modules.benchmarks.recipes import Recipe
from modules.benchmarks.settings import TrainingSettings
from modules.experiments.cost_estimate import hours_text
from modules.runs.config import RunConfig
from modules.runs.results import RunResult
from variants.errors import UserError
from variants.outside.options import build
from variants.registry import resolve

FIRST = ("lr", "head_lr", "batch_size", "epochs", "max_length", "warmup_ratio", "warmup_steps", "weight_decay")
"""Settings in the order in which they are said; others follow."""


def recipe_line(recipes: Sequence[Recipe]) -> str:
    """Where the settings come from, such as ``recipe: paper for roberta-base (LoRA, Table 9)``."""
    known = dict.fromkeys(f"{recipe.protocol} for {recipe.backbone} ({recipe.source})" for recipe in recipes)
    return f"recipe: {'; '.join(known)}"


class Settled(NamedTuple):
    """What is settled of a run: the method's name, the task, the options, and the training settings, of which `given`
    are named by recipe and flags."""

    name: str
    task: str
    options: Mapping[str, Any]
    settings: TrainingSettings
    given: Iterable[str]

    @classmethod
    def of(cls, run: RunConfig) -> Settled:
        """Of a run's configuration."""
        return cls(run.name, run.task, run.options, settings_of(run), run.training)


def settings_lines(runs: Sequence[Settled], benchmark: Benchmark) -> list[str]:
    """A line for the options of each method, and one for its training settings; tasks are named where they differ."""
    lines = []
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        lines.append(f"{name}: {_by_task(own, lambda run: _told(run.options), benchmark) or 'no options'}")
        lines.append(f"training: {_by_task(own, _training, benchmark)}")
    return lines


def _told(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, "", {}, [], False)}


def _training(run: Settled) -> dict[str, Any]:
    settings = dataclasses.asdict(run.settings)
    return {name: settings[name] for name in dict.fromkeys([*FIRST, *run.given]) if _said(settings.get(name))}


def _said(value: Any) -> bool:
    return value not in (None, "") and not (isinstance(value, float) and value == 0)


def _by_task(runs: Sequence[Settled], pick: Callable[[Settled], Mapping[str, Any]], benchmark: Benchmark) -> str:
    """Such as ``lr 0.0005, epochs 30 (MNLI) 80 (RTE)``."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, value in pick(run).items():
            text = f"{value:g}" if isinstance(value, float) else str(value)
            tasks = found.setdefault(name, {}).setdefault(text, [])
            if (title := benchmark.tasks[run.task].title) not in tasks:
                tasks.append(title)
    every = len({run.task for run in runs})
    return ", ".join(
        f"{name} " + " ".join(text if len(tasks) == every else f"{text} ({', '.join(tasks)})"
                              for text, tasks in values.items())
        for name, values in found.items()
    )  # fmt: skip


def time_line(runs: Sequence[RunConfig], finished: Iterable[RunResult]) -> str:
    """How long some runs will take one after the other, as far as finished ones of the same task, backbone and data
    tell; else when that will be known."""
    known: dict[tuple[str, str, str], list[float]] = {}
    for run in finished:
        if run.seconds and run.epochs and not run.truncated:
            place = (run.task, run.backbone["hash"], run.data["hash"])
            known.setdefault(place, []).append(run.seconds / len(run.epochs))
    places = [(run.task, run.backbone["hash"], run.data["hash"]) for run in runs]
    if any(place not in known for place in places):
        return "time: the line below says what is left, from the first steps on; --plan estimates it beforehand"
    epochs = [settings_of(run).epochs for run in runs]
    total = sum(statistics.median(known[place]) * count for place, count in zip(places, epochs, strict=True))
    told = f"{total:.0f} s" if total < 90 else hours_text(total / 3600)
    return f"time: about {told}, one run after the other, as finished runs of these tasks in this folder took"


def check_variants(runs: Sequence[RunConfig], benchmark: Benchmark) -> list[str]:
    """Attach each variant of some runs to their backbone's shapes: a line each with its trained parameters.

    No weights are read: a mistake that needs the model, such as a target that matches nothing, is found before
    anything starts.

    Raises:
        UserError: the variant does not fit the model, or the model cannot be built.
    """
    from modules.backbones.loading import shapes_only
    from variants.adapters.adapted_model import attach

    lines: dict[str, None] = {}
    tried: set[str] = set()
    for run in runs:
        key = f"{run.variant} {run.options} {run.backbone}"
        if key in tried:
            continue
        tried.add(key)
        folder = benchmark.backbone(run.backbone["spec"])[2]
        variant = build(resolve(run.variant), run.options)
        try:
            counts = attach(shapes_only(folder, benchmark.auto_class), variant).count()
        except UserError as error:
            raise UserError(f"{run.title}: {error}") from error
        except Exception:  # a method that computes with the weights when it is attached: the run will tell
            continue
        head = ", and the task's head" if counts["head"] else ""
        lines[f"{run.name} trains {counts['adapter']:,} of {counts['total']:,} parameters{head}"] = None
    return list(lines)
