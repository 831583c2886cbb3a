"""The eight GLUE tasks of the papers' tables: fields, labels, metrics and dev splits.

Field names and the integer order of the labels are those of `nyu-mll/glue`; folders are those of the
official TSV download. `column` is the metric that Table 2 of the LoRA paper (Hu et al., 2021) prints: overall
accuracy for MNLI (matched and mismatched rows pooled), Matthews correlation for CoLA, Pearson correlation for
STS-B, accuracy elsewhere. This module imports nothing heavy, so that `--help` may use it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One task: what it reads, what it predicts and how it is scored."""

    name: str
    title: str
    folder: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    column: str
    eval_splits: tuple[str, ...] = ("validation",)

    @property
    def num_labels(self) -> int:
        """Outputs of the head: the number of classes, 1 for regression."""
        return len(self.labels) or 1

    @property
    def is_regression(self) -> bool:
        """True where the label is a score (STS-B, 0 to 5) and not a class."""
        return not self.labels

    @property
    def problem_type(self) -> str:
        """The name that transformers' sequence classification heads use."""
        return "regression" if self.is_regression else "single_label_classification"


_ENTAILMENT = ("entailment", "not_entailment")

# In the order of the columns of the LoRA paper's Table 2.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="mnli",
            title="MNLI",
            folder="MNLI",
            fields=("premise", "hypothesis"),
            labels=("entailment", "neutral", "contradiction"),
            metrics=("accuracy", "accuracy_matched", "accuracy_mismatched"),
            column="accuracy",
            eval_splits=("validation_matched", "validation_mismatched"),
        ),
        Task("sst2", "SST-2", "SST-2", ("sentence",), ("negative", "positive"), ("accuracy",), "accuracy"),
        Task(
            name="mrpc",
            title="MRPC",
            folder="MRPC",
            fields=("sentence1", "sentence2"),
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            column="accuracy",
        ),
        Task(
            name="cola",
            title="CoLA",
            folder="CoLA",
            fields=("sentence",),
            labels=("unacceptable", "acceptable"),
            metrics=("matthews", "accuracy"),
            column="matthews",
        ),
        Task("qnli", "QNLI", "QNLI", ("question", "sentence"), _ENTAILMENT, ("accuracy",), "accuracy"),
        Task(
            name="qqp",
            title="QQP",
            folder="QQP",
            fields=("question1", "question2"),
            labels=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            column="accuracy",
        ),
        Task("rte", "RTE", "RTE", ("sentence1", "sentence2"), _ENTAILMENT, ("accuracy",), "accuracy"),
        Task("stsb", "STS-B", "STS-B", ("sentence1", "sentence2"), (), ("pearson", "spearman"), "pearson"),
    )
}
