"""What was trained, as an adapter's folder tells it: its base, its labels, how texts are read. No torch here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from modules.benchmarks.base import BENCHMARKS, Benchmark, benchmark
from modules.benchmarks.outside import known
from modules.documents import read_json
from modules.runs.config import Place, RunConfig
from modules.runs.results import ADAPTERS, RunResult
from variants.errors import UserError
from variants.schema import checked

ADAPTER = "adapter.json"


class _Inputs(TypedDict):
    """The entries of `inputs` that every benchmark has."""

    fields: list[str]
    max_length: int


class _Needed(TypedDict):
    benchmark: str
    task: str | None
    backbone: Place
    inputs: dict[str, Any]


class _Notes(_Needed, total=False):
    """The entries of adapter.json that are read here; an older file has those of its run's configuration."""

    run: str
    problem_type: str | None
    num_labels: int
    labels: list[str]


@dataclass(frozen=True)
class Trained:
    """An adapter's folder and what it says.

    Attributes:
        folder: of the adapter.
        benchmark: the name of the benchmark that it was trained for.
        task: its name there.
        backbone: what the run started from: source, name, hash, and the spec to load it by.
        num_labels: outputs of the classification head; None where the model writes text.
        problem_type: of the head, in transformers' words.
        labels: names of the classes, in the order of their numbers; none for a score.
        inputs: what turns texts into rows: see `modules.benchmarks.base.Benchmark.inputs`.
    """

    folder: Path
    benchmark: str
    task: str
    backbone: Place
    num_labels: int | None
    problem_type: str | None
    labels: tuple[str, ...]
    inputs: Mapping[str, Any]

    @property
    def of(self) -> Benchmark:
        """The benchmark; where it is not known here, one that reads texts and names classes."""
        found = known(self.benchmark)
        if not found and self.num_labels is None:
            raise UserError(f"{self.folder} is of the benchmark {self.benchmark!r}, which is not known here")
        return found or Benchmark()


def trained(
    run: str | os.PathLike[str] | RunResult, which: str = "best", results_dir: str | os.PathLike[str] = "results"
) -> Trained:
    """What the adapter of a run says.

    Args:
        run: a result; the folder of a run, or its result file; the folder of one adapter, wherever that was taken; or
            the id of a run in ``results_dir``.
        which: of the run's two adapters, that of its best or of its last epoch.

    Raises:
        UserError: there is no such run, its adapter is gone or damaged, or it does not say what it is.
    """
    if which not in ADAPTERS:
        raise UserError(f"which must be one of {', '.join(ADAPTERS)}, not {which!r}")
    folder = _folder(run, which, Path(results_dir))
    path = folder / ADAPTER
    notes = read_json(path)
    if not isinstance(notes, dict):
        raise UserError(f"{path}: expected keys and values")
    said = {name: value for name, value in notes.items() if name in _Notes.__annotations__}
    if "backbone" not in said:  # a file from before
        said = _from_run(folder) | said
    checked(_Notes, said, str(path))
    inputs = {name: value for name, value in said["inputs"].items() if name in _Inputs.__annotations__}
    checked(_Inputs, inputs, f"{path}: inputs")
    return Trained(
        folder=folder,
        benchmark=said["benchmark"],
        task=str(said["task"]),
        backbone=said["backbone"],
        num_labels=said.get("num_labels"),
        problem_type=said.get("problem_type"),
        labels=tuple(said.get("labels", ())),
        inputs=said["inputs"],
    )


def _folder(run: str | os.PathLike[str] | RunResult, which: str, results_dir: Path) -> Path:
    """The folder of the adapter."""
    place = run.folder if isinstance(run, RunResult) else Path(run).expanduser()
    if not place.exists() and len(place.parts) == 1:
        place = results_dir / "runs" / place
    if place.is_file() and place.suffix == ".json":
        place = place.with_suffix("")
    if (place / ADAPTER).is_file():
        return place
    if (place / which / ADAPTER).is_file():
        return place / which
    if not place.is_dir() and not place.with_suffix(".json").is_file():
        raise UserError(f"there is no run {str(run)!r}: name the folder of a run, such as results/runs/0123456789ab")
    if (place / "config.json").is_file() or place.with_suffix(".json").is_file():
        raise UserError(f"{place / which} is not there: the run is not finished, or its adapters were not kept")
    raise UserError(f"{place} is not the folder of a run: it has neither {which}/{ADAPTER} nor {ADAPTER}")


def _from_run(folder: Path) -> dict[str, Any]:
    """What an adapter's file from before lacks, from the configuration of its run in the folder above."""
    if not (folder.parent / "config.json").is_file():
        raise UserError(
            f"{folder / ADAPTER} does not name its base model, and the run's config.json is not beside it: load it by "
            "variants.load on a model of your own"
        )
    config = RunConfig.read(str(folder.parent.parent.parent), folder.parent.name)
    if config.benchmark not in BENCHMARKS:
        raise UserError(f"{folder / ADAPTER} does not say how its run reads texts, nor does a benchmark of the project")
    own = benchmark(config.benchmark)
    task = own.tasks[config.task]
    said: dict[str, Any] = {
        "run": config.id,
        "benchmark": config.benchmark,
        "task": config.task,
        "backbone": dict(config.backbone),
        "inputs": own.inputs(config),
    }
    if own.auto_class == "AutoModelForSequenceClassification":
        labels = list(task.labels)
        kind = "single_label_classification" if labels else "regression"
        said |= {"problem_type": kind, "num_labels": len(labels) or 1, "labels": labels}
    return said
