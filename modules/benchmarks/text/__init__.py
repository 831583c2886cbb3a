"""Classification and regression on one or two texts: what GLUE, a person's own data and benchmarks from outside share.

A benchmark of your own is a subclass of `TextBenchmark` with a name, tasks and `rows` (docs/data.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Benchmark, Prepared, batch_sizes
from modules.benchmarks.text.settings import TextSettings
from modules.benchmarks.text.task import TextTask as TextTask
from modules.data.source import Split as Split
from modules.paths import CONFIGS

if TYPE_CHECKING:
    from modules.data.source import Source
    from modules.runs.config import RunConfig
    from modules.runs.results import RunResult


class TextBenchmark(Benchmark):
    """Tasks on one or two texts. Subclasses set `name` and `tasks` and implement `rows`."""

    settings = TextSettings
    auto_class = "AutoModelForSequenceClassification"
    hub_model = "FacebookAI/roberta-base"
    embedded_model = "embedded-roberta"
    embedded_note = "a small RoBERTa that ships with the project, for a first look; name a backbone with --model"
    presets = ("auto", "embedded", "default")
    metric_words = {
        "accuracy": "accuracy",
        "f1": "F1",
        "f1_macro": "F1, mean over the classes",
        "f1_micro": "F1 of all labels together",
        "matthews": "Matthews correlation",
        "precision_macro": "precision, mean over the classes",
        "recall_macro": "recall, mean over the classes",
        "auroc": "area under the ROC curve",
        "pearson": "Pearson correlation",
        "spearman": "Spearman correlation",
        "neg_mse": "mean squared error with its sign turned",
        "neg_rmse": "root of the mean squared error with its sign turned",
        "neg_mae": "mean absolute error with its sign turned",
    }

    def rows(self, task: TextTask) -> Mapping[str, Split]:
        """The rows of a task by split: "train", "validation" (or the task's `eval_splits`), and "test" if there is one.

        A row has a text for each of the task's fields. Its label is the name or the number of a class, a score, or
        with `multi` a list of names.
        """
        raise NotImplementedError

    @property
    def configs(self) -> Path:
        """Folder of the recipes: an own one, else that of people's own data."""
        own = super().configs
        return own if own.is_dir() else CONFIGS / "custom"

    def embedded(self) -> tuple[str, Path]:
        """Name and folder of the small RoBERTa."""
        from modules.embedded import ROBERTA

        return self.embedded_model, ROBERTA

    def source(self, backbone: str, data_dir: str | None) -> Source:
        """The rows of `rows`, for any backbone."""
        return self.open_source("code", None)

    def open_source(self, kind: str, spec: Any) -> Source:
        """The rows of `rows`."""
        from modules.benchmarks.text.rows import RowsSource

        return RowsSource(self)

    def seen_in(self, results: Sequence[RunResult]) -> Benchmark:
        """With the tasks of the results, and a column for the test set of each that has one."""
        from modules.benchmarks.recorded import seen

        return seen(self, results)

    def prepare(self, config: RunConfig) -> Prepared:
        """Read and tokenise the rows, load the model: see `Benchmark.prepare`."""
        from modules.backbones.loading import load_backbone
        from modules.benchmarks.text.data import TextDataModule
        from modules.benchmarks.text.objective import Classification
        from modules.data.tokens import tokenise

        settings = self.settings.of(config.training)
        source = self.open_source(config.data["source"], config.data["spec"])
        splits = source.expect(self.tasks[config.task], config.data["hash"])
        task = self.labelled(self.tasks[config.task], source, config.training)
        dropout = {} if settings.cls_dropout is None else {"classifier_dropout": settings.cls_dropout}
        model, tokenizer, backbone = load_backbone(config.backbone["spec"], task, config.seed, **dropout)
        max_length = min(settings.max_length, backbone.max_length or settings.max_length)
        data = TextDataModule(
            task,
            tokenise(splits, tokenizer, max_length, source.hash(task)),
            tokenizer.pad_token_id,
            **batch_sizes(settings.batch_size, config.trainer),
            seed=config.seed,
            pad=settings.pad,
            max_length=max_length,
        )
        return Prepared(data, model, Classification(task), source.sizes[task.name], source.notes[task.name])
