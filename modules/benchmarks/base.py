"""What a benchmark is to the rest of the project: tasks, settings, data, the columns of its table, and how a run of it
is prepared. Nothing heavy is imported here, so that `--help` answers at once.

A benchmark is one object of a subclass of `Benchmark`; `BENCHMARKS` names the project's, and `outside` finds those of
other packages and files. Command line, plan, run and tables know this interface alone. Most of it has defaults: a
benchmark on texts and labels (`modules.benchmarks.text`) needs a name, tasks and rows.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from modules.benchmarks.settings import TrainingSettings
from modules.data.task import Task
from modules.paths import CONFIGS
from variants.errors import UserError
from variants.outside.files import code_hash

if TYPE_CHECKING:
    from modules.benchmarks.objective import Objective
    from modules.data.module import PaddedDataModule
    from modules.data.source import Source
    from modules.runs.config import RunConfig
    from modules.runs.results import RunResult

BENCHMARKS = {"glue": "GLUE", "e2e": "E2E", "instruct": "INSTRUCT", "dreambooth": "DREAMBOOTH", "custom": "CUSTOM"}
"""Each benchmark's folder here, which is its name in configurations and result files -> its object there."""


def benchmark(spec: str) -> Benchmark:
    """The benchmark of a name or, from outside the project, of an entry point, `module:Class` or `file.py:Class`.

    Raises:
        UserError: there is none.
    """
    if spec not in BENCHMARKS:
        from modules.benchmarks.outside import load

        return load(spec)
    return getattr(importlib.import_module(f"modules.benchmarks.{spec}"), BENCHMARKS[spec])


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
        scale: printed figure = scale x score; below 0 where less of the printed figure is better, as of perplexity.
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

    @property
    def less_is_better(self) -> bool:
        """Whether the best printed figure is the lowest: scores themselves are the better the higher."""
        return self.scale < 0


@dataclass
class Prepared:
    """All that a run trains and scores: see `Benchmark.prepare`.

    Attributes:
        data: the loaders.
        model: the pretrained model, without an adapter.
        objective: the losses of a batch and the scores of an evaluation.
        sizes: rows of each split, for the result file.
        notes: what a reader must know of the rows, such as what was left out of them; likewise.
    """

    data: PaddedDataModule
    model: Any
    objective: Objective
    sizes: dict[str, int]
    notes: Sequence[str] = ()


class Benchmark:
    """Subclasses set the attributes that have no default, and implement the methods that raise NotImplementedError."""

    name: ClassVar[str]  # in result files: lower-case letters, digits and _
    tasks: Mapping[str, Task]  # by name
    settings: ClassVar[type[TrainingSettings]] = TrainingSettings
    auto_class: ClassVar[str]  # transformers' name of the kind of model
    hub_model: ClassVar[str]  # what is trained where a GPU and the Hub are there and no model is named
    embedded_model: ClassVar[str]
    embedded_note: ClassVar[str]  # what the embedded source is, for the first line

    # ---- the command
    script: ClassVar[str] = "train.py"
    examples: ClassVar[str] = ""
    presets: ClassVar[tuple[str, ...]] = ("auto", "embedded", "paper", "official", "default")
    paper_note: ClassVar[str] = "the default recipe"  # which recipe `auto` takes with `hub_model`
    data_env: ClassVar[str] = ""  # the variable that names a data folder
    data_help: ClassVar[str] = ""  # of --data_dir; empty where there is no such folder
    data_flags: ClassVar[Mapping[str, str]] = {}  # further flags that say where the rows are: name -> help
    given: Mapping[str, str] = {}  # those that were given: see `on`

    # ---- tasks that start from another's weights
    first_task: ClassVar[str | None] = None  # the task whose trained weights other tasks may start from
    later_tasks: ClassVar[tuple[str, ...]] = ()  # those that the papers start from it

    # ---- the table
    statistic: ClassVar[str] = "median"  # over the seeds of a cell: median or mean
    average: ClassVar[bool] = False  # whether a mean over the columns means something
    family: ClassVar[str] = ""  # of models that the papers speak of, such as RoBERTa
    reading: ClassVar[str] = """\
A cell is the median over the seeds ± their standard deviation (n-1; `±-`: one seed), on the dev set. Each run counts
with its best epoch, chosen on the rows it is scored on, so the figures flatter a little."""
    published_scores: ClassVar[str] = ""  # how the papers' scores were made, where ours are made otherwise
    scored_on: ClassVar[str] = "dev"  # the split of the table's figures
    official_rows: ClassVar[Mapping[str, tuple[int, int]]] = {}  # (train, scored) rows of official splits, by task
    metric_words: ClassVar[Mapping[str, str]] = {}

    @property
    def title(self) -> str:
        """Heading of the tables."""
        return self.name

    @property
    def description(self) -> str:
        """Of the command, for --help: the first line of the class's text."""
        return (inspect.getdoc(type(self)) or self.title).partition("\n")[0]

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Of the table: the score of each task that picks its best epoch."""
        return tuple(Column(task.name, task.name, task.title) for task in self.tasks.values())

    @cached_property
    def spec(self) -> str:
        """By what `benchmark` finds it, in another process too."""
        return self.name

    @property
    def code(self) -> str | None:
        """Hash of the code of a benchmark from outside the project: part of what decides a run's outcome."""
        return None if type(self).__module__.partition(".")[0] == "modules" else code_hash(type(self))

    @property
    def configs(self) -> Path:
        """Folder of the recipes."""
        return CONFIGS / self.name

    @property
    def paper_model(self) -> str:
        """The papers' own backbone, without its owner."""
        return self.hub_model.rpartition("/")[2]

    @property
    def model_title(self) -> str:
        """The name of `hub_model` for a reader."""
        return self.paper_model

    @property
    def later_words(self) -> str:
        """The titles of `later_tasks`, such as `MRPC, RTE and STS-B`."""
        *most, last = (self.tasks[task].title for task in self.later_tasks)
        return f"{', '.join(most)} and {last}" if most else last

    def on(self, given: Mapping[str, str]) -> Benchmark:
        """The benchmark on the data that its `data_flags` name; raises UserError where they do not say enough."""
        return self

    def labelled(self, task: Task, source: Source, training: Mapping[str, Any]) -> Task:
        """A task as a run with these training settings has it; raises UserError where they and the rows do not fit."""
        return task

    def usual_tasks(self, backbone: str) -> Sequence[str]:
        """The tasks that are run where none is named, as far as there are recipes; empty: all.

        Args:
            backbone: where it is from: "embedded", "folder" or "hub".
        """
        return ()

    def seen_in(self, results: Sequence[RunResult]) -> Benchmark:
        """The benchmark with the tasks and columns of some of its results, where they are not the same for all."""
        return self

    def embedded(self) -> tuple[str, Path]:
        """Name and folder of the backbone that ships with the project."""
        raise NotImplementedError

    hub_files: tuple[str, ...] = ()  # patterns of what of a model is fetched from the Hub; empty: as transformers'

    def backbone(self, model: str) -> tuple[str, str, Path]:
        """(name, where it is from, local folder) of a model as --model names it; a Hub model is downloaded first."""
        from modules.backbones.loading import resolve

        return resolve(model, self.embedded() if model == "embedded" else None, self.hub_files)

    def source(self, backbone: str, data_dir: str | None) -> Source:
        """The rows' source for a command: the generator for the embedded backbone, else a folder, else the Hub.

        Args:
            backbone: where it is from: "embedded", "folder" or "hub".
            data_dir: as --data_dir gave it.

        Raises:
            UserError: they do not belong together.
        """
        if backbone == "embedded":
            if data_dir:
                raise UserError("the embedded backbone knows only the generated tasks: name another with --model")
            return self.open_source("embedded", None)
        folder = data_dir or os.environ.get(self.data_env)
        return self.open_source("folder" if folder else "hub", folder)

    def open_source(self, kind: str, spec: Any) -> Source:
        """The rows' source as a run's configuration names it: "embedded", "folder" (`spec`) or "hub"."""
        raise NotImplementedError

    def hub_cached(self) -> bool:
        """Whether all that runs without --model need is in the local Hub caches: backbone, and data from the Hub."""
        from modules.hub import hub_cached

        return hub_cached(self.hub_model)

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
        """Rows that the table's figures are of, from a run's sizes by split: those of all dev splits."""
        return sum(count for name, count in sizes.items() if name.startswith("validation"))


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
