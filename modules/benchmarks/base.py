"""What a benchmark is to the rest of the project: tasks, settings, data, the columns of its table, and how a run of it
is prepared. Nothing heavy is imported here, so that `--help` answers at once.

A benchmark is one object of a subclass of `Benchmark`; `BENCHMARKS` names them. Command line, plan, run and tables know
this interface alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from modules.benchmarks.objective import Objective
    from modules.data.module import PaddedDataModule
    from modules.data.source import Source
    from modules.paths import CONFIGS
from modules.paths import CONFIGS
from modules.runs.config import RunConfig

BENCHMARKS = {"glue": "modules.benchmarks.glue:GLUE", "e2e": "modules.benchmarks.e2e:E2E"}
"""Name in configurations and result files -> module and object."""


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises KeyError where there is none."""
    module, _, attribute = BENCHMARKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Setting:
    """A training setting: its type, what `--help` says, whether 0 is allowed, and its words where it is one of some."""

    kind: type
    help: str
    zero: bool = False
    choices: tuple[str, ...] = ()


COMMON: dict[str, Setting] = {
    "lr": Setting(float, "learning rate of the adapter"),
    "batch_size": Setting(int, "rows per optimizer step, over all devices"),
    "epochs": Setting(int, "passes over the training rows"),
    "max_length": Setting(int, "tokens; longer rows are cut"),
    "warmup_ratio": Setting(float, "share of all steps with a rising learning rate", zero=True),
    "warmup_steps": Setting(int, "the same in steps", zero=True),
    "weight_decay": Setting(float, "of AdamW", zero=True),
    "adam_eps": Setting(float, "epsilon of AdamW (default: 1e-8)"),
    "gradient_clip_val": Setting(float, "largest norm of the gradient; 0 for none", zero=True),
    "pad": Setting(
        str,
        "bucket (as little padding as the model can do with) or max (every row to max_length)",
        choices=("bucket", "max"),
    ),
}
"""Settings of every benchmark."""


@dataclass(frozen=True)
class Column:
    """A column of a benchmark's table: one score of one task.

    Attributes:
        key: its name in published figures and CSV files.
        task: the task whose runs it shows.
        title: its heading.
        metric: the score's name in a run's `test` figures; None for the dev metric that the run itself names.
        scale: printed figure = scale x score.
        digits: after the decimal point.
    """

    key: str
    task: str
    title: str
    metric: str | None = None
    scale: float = 100.0
    digits: int = 1


@dataclass
class Prepared:
    """All that a run trains and scores: see `Benchmark.prepare`."""

    data: PaddedDataModule
    model: Any
    objective: Objective
    sizes: dict[str, int]


class Benchmark:
    """Subclasses set these attributes and implement the methods that raise NotImplementedError."""

    name: ClassVar[str]
    title: ClassVar[str]
    script: ClassVar[str]
    description: ClassVar[str]  # of the command, for --help
    examples: ClassVar[str]
    tasks: ClassVar[Mapping[str, Any]]  # by name; a task has name, title, column (the metric that picks an epoch)
    settings: ClassVar[Mapping[str, Setting]]
    columns: ClassVar[tuple[Column, ...]]
    statistic: ClassVar[str] = "median"  # over the seeds of a cell: median or mean
    average: ClassVar[bool] = False  # whether a mean over the columns means something

    auto_class: ClassVar[str]  # transformers' name of the kind of model
    hub_model: ClassVar[str]  # of the papers' protocols
    model_title: ClassVar[str]
    family: ClassVar[str]  # of models that the papers speak of, such as RoBERTa
    embedded_model: ClassVar[str]
    embedded_note: ClassVar[str]  # what the embedded source is, for the first line
    paper_note: ClassVar[str]  # which recipe `auto` takes where it can
    presets: ClassVar[tuple[str, ...]] = ("auto", "embedded", "paper", "official", "default")
    data_env: ClassVar[str]  # the variable that names a data folder
    data_help: ClassVar[str]

    reading: ClassVar[str]  # how to read the table
    scored_on: ClassVar[str] = "dev"  # the split of the table's figures
    official_rows: ClassVar[Mapping[str, tuple[int, int]]]  # (train, scored) rows of the official splits, by task
    metric_words: ClassVar[Mapping[str, str]] = {}

    @property
    def configs(self) -> Path:
        """Folder of the recipes."""
        return CONFIGS / self.name

    @property
    def paper_model(self) -> str:
        """The papers' own backbone, without its owner."""
        return self.hub_model.rpartition("/")[2]

    def embedded(self) -> tuple[str, Path]:
        """Name and folder of the backbone that ships with the project."""
        raise NotImplementedError

    def open_source(self, kind: str, spec: str | None) -> Source:
        """The rows' source: "embedded", "folder" (`spec`) or "hub"."""
        raise NotImplementedError

    def hub_cached(self) -> bool:
        """Whether backbone and data of the papers' protocols are all in the local Hub caches."""
        raise NotImplementedError

    def prepare(self, config: RunConfig) -> Prepared:
        """Data, model and objective of a run; raises UserError where they are not what its id was made of."""
        raise NotImplementedError

    def scored_rows(self, sizes: Mapping[str, int]) -> int:
        """Rows that the table's figures are of, from a run's sizes by split."""
        raise NotImplementedError
