"""A task on one or two texts: one of several classes, a score, or any number of labels. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from modules.data.task import Task
from variants.errors import UserError

METRICS = {
    "classes": ("accuracy", "f1_macro", "matthews", "precision_macro", "recall_macro", "auroc", "f1"),
    "score": ("pearson", "spearman", "neg_mse", "neg_rmse", "neg_mae"),
    "multi": ("f1_macro", "f1_micro", "accuracy", "precision_macro", "recall_macro", "auroc"),
}
"""What each kind of label can be scored by (`modules.benchmarks.text.metrics`): the first where nothing is said."""


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A task of classification or regression on one or two texts.

    Attributes:
        fields: names of the texts of a row.
        labels: names of the classes, in the order of their numbers; none where the label is a score.
        multi: whether a row has any number of the labels, and not exactly one.
        metrics: of `METRICS` for its kind of label, the first of which picks the best epoch; by default the kind's
            first. Each may be of one dev split alone: `accuracy_matched` of `validation_matched`.
    """

    multi: bool = False

    def __post_init__(self) -> None:
        known = METRICS[self.kind]
        if not self.metrics:
            object.__setattr__(self, "metrics", known[:1])
        parts = {name.removeprefix("validation_") for name in self.eval_splits}
        for name in self.metrics:
            base, _, part = name.rpartition("_")
            if name not in known and not (base in known and part in parts):
                raise UserError(f"{self.title}: a task of this kind has no metric {name!r}; it has {', '.join(known)}")
        if "f1" in self.metrics and len(self.labels) != 2:
            raise UserError(f"{self.title}: f1 is that of the second of two classes; of {len(self.labels)}, f1_macro")
        super().__post_init__()

    @property
    def kind(self) -> str:
        """Of the labels: `classes`, `score` or `multi`."""
        return "multi" if self.multi else "classes" if self.labels else "score"

    @property
    def num_labels(self) -> int:
        """Outputs of the head: the number of classes, 1 for regression."""
        return len(self.labels) or 1

    @property
    def problem_type(self) -> str:
        """The name that transformers' sequence classification heads use."""
        names = {"classes": "single_label_classification", "score": "regression", "multi": "multi_label_classification"}
        return names[self.kind]
