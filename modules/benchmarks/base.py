"""What a benchmark is to the rest of the project: tasks, settings, data, the columns of its table, and how a run of it
is prepared. Nothing heavy is imported here, so that `--help` answers at once.

A benchmark is one object of a subclass of `Benchmark`; `BENCHMARKS` names them. Command line, plan, run and tables know
this interface alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modules.benchmarks.settings import TrainingSettings
from modules.data.task import Task
from modules.paths import CONFIGS
from variants.errors import UserError

if TYPE_CHECKING:
    from modules.benchmarks.objective import Objective
    from modules.data.module import PaddedDataModule
    from modules.data.source import Source
    from modules.runs.config import RunConfig

BENCHMARKS = {"glue": "GLUE", "e2e": "E2E"}
"""Each benchmark's folder here, which is its name in configurations and result files -> its object there."""


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name. Raises KeyError where there is none."""
    attribute = BENCHMARKS[name]
    return getattr(importlib.import_module(f"modules.benchmarks.{name}"), attribute)


def settings_of(config: RunConfig) -> TrainingSettings:
    """What a run trains with: the settings that its configuration gives, and the defaults of its benchmark."""
    return benchmark(config.benchmark).settings.of(config.training)


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
        alternative: whether it is another form of a score: shown where a run has it, and never compared.
    """

    key: str
    task: str
    title: str
    metric: str | None = None
    scale: float = 100.0
    digits: int = 1
    alternative: bool = False


@dataclass
class Prepared:
    """All that a run trains and scores: see `Benchmark.prepare`.

    Attributes:
        data: the loaders.
        model: the pretrained model, without an adapter.
        objective: the losses of a batch and the scores of an evaluation.
        sizes: rows of each split, for the result file.
    """

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
    tasks: ClassVar[Mapping[str, Task]]  # by name
    settings: ClassVar[type[TrainingSettings]]
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

    first_task: ClassVar[str | None] = None  # the task whose trained weights other tasks may start from
    later_tasks: ClassVar[tuple[str, ...]] = ()  # those that the papers start from it

    reading: ClassVar[str]  # how to read the table
    published_scores: ClassVar[str] = ""  # how the papers' scores were made, where ours are made otherwise
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

    @property
    def later_words(self) -> str:
        """The titles of `later_tasks`, such as `MRPC, RTE and STS-B`."""
        *most, last = (self.tasks[task].title for task in self.later_tasks)
        return f"{', '.join(most)} and {last}" if most else last

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

    def inputs(self, config: RunConfig) -> dict[str, Any]:
        """What turns new texts into rows of a trained model: `fields`, their names, `max_length`,
        `padding_side`, and whatever `predict` asks for. It is part of adapter files."""
        length = self.settings.of(config.training).max_length
        return {"fields": list(self.tasks[config.task].fields), "max_length": length, "padding_side": "right"}

    def predict(
        self,
        model: Any,
        tokenizer: Any,
        rows: Sequence[tuple[str, ...]],
        inputs: Mapping[str, Any],
        done: Callable[[int], object],
    ) -> list[dict[str, Any]]:
        """What a trained model says of new rows: classes with their probabilities, or scores.

        Args:
            model: in eval mode; its configuration tells what its outputs are.
            rows: of each the texts, in the order of the fields.
            inputs: as `inputs` gave them.
            done: called with a number of rows whenever so many more are done.

        Returns:
            For each row columns of a table, by name.

        Raises:
            UserError: a row cannot be read.
        """
        from modules.benchmarks.prediction import classify

        return classify(model, tokenizer, rows, done)

    def scored_rows(self, sizes: Mapping[str, int]) -> int:
        """Rows that the table's figures are of, from a run's sizes by split."""
        raise NotImplementedError


def batch_sizes(batch_size: int, trainer: Mapping[str, Any]) -> dict[str, int]:
    """Rows of a training and of an evaluation batch, as a data module takes them.

    Args:
        batch_size: rows per optimizer step.
        trainer: options of lightning.Trainer; gradient accumulation divides a step's rows.

    Raises:
        UserError: accumulation does not divide them evenly.
    """
    accumulate = trainer.get("accumulate_grad_batches", 1)
    if batch_size % accumulate:
        raise UserError(f"--batch_size {batch_size} cannot be split over accumulate_grad_batches={accumulate}")
    return {"batch_size": batch_size // accumulate, "eval_batch_size": 4 * batch_size}
