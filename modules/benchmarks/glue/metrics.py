"""GLUE's metrics as one torchmetrics class: exact on any number of processes, whatever each one holds.

Dev sets are small (40,430 rows at most), so predictions are kept and scored once per epoch: no running formula has
to be merged, and accuracy, F1, Matthews and both correlations are those of the whole split.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.benchmarks.glue.tasks import Task

_FILLER = -1  # the split number of rows that do not count


class GlueMetrics(Metric):
    """All metrics of one task over its dev splits; `compute()` gives {name: value}, values as fractions.

    Where a task has several dev splits, a metric is given pooled over all rows ("accuracy") and for each split that has
    rows ("accuracy_matched", "accuracy_mismatched").
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    predictions: list[Tensor]
    targets: list[Tensor]
    splits: list[Tensor]

    def __init__(self, task: Task, **kwargs):
        super().__init__(**kwargs)
        self.task = task
        # Three flat float32 states: torchmetrics gathers uneven lengths, and gives a rank without rows an empty float.
        for name in ("predictions", "targets", "splits"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, weight: Tensor, split: int = 0) -> None:
        """Adds a batch: logits (B, C), labels (B,), weight (B,) with 0 for filler rows; `split` indexes `eval_splits`.

        Only appends device tensors: no host synchronisation.
        """
        logits = logits.detach()
        predictions = logits.reshape(len(labels), -1)
        predictions = predictions[:, 0] if self.task.is_regression else predictions.argmax(dim=-1)
        self.predictions.append(predictions.float())
        self.targets.append(labels.detach().float())
        self.splits.append(torch.where(weight > 0, float(split), float(_FILLER)))

    def compute(self) -> dict[str, Tensor]:
        """The metrics over the rows of all processes (float64 scalars on the CPU)."""
        predictions, targets, splits = (
            torch.cat(state) if isinstance(state, list) else state
            for state in (self.predictions, self.targets, self.splits)
        )
        # Leaving the device once per epoch; float64, since float32 loses a small spread far from zero.
        predictions, targets, splits = predictions.cpu().double(), targets.cpu().double(), splits.cpu()
        values = {}
        for name in self.task.metrics:
            base, _, part = name.partition("_")
            kept = splits != _FILLER
            if part:
                kept = splits == self.task.eval_splits.index(f"validation_{part}")
            if kept.any():
                values[name] = _FORMULAS[base](predictions[kept], targets[kept])
        return values


def glue_metrics(task: Task) -> GlueMetrics:
    """The metrics of a task, ready for `update(logits, labels, weight, split)`."""
    return GlueMetrics(task)


# The formulas are written out: torchmetrics' own give 0.41 and not 0 for the Matthews correlation of [1, 1, 1] with
# [1, 0, 1], NaN for a Pearson correlation of predictions that differ by less than 1e-4, and 1 - 1.5e-6 for a perfect
# Spearman correlation. These agree with scikit-learn and SciPy, which GLUE's scorer uses.


def _accuracy(said: Tensor, true: Tensor) -> Tensor:
    return (said == true).double().mean()


def _f1(said: Tensor, true: Tensor) -> Tensor:
    """F1 of class 1; 0 where it is neither predicted nor present."""
    return 2 * (said * true).sum() / (said.sum() + true.sum()).clamp(min=1)


def _pearson(said: Tensor, true: Tensor) -> Tensor:
    """Pearson correlation. With a constant it is undefined: 0, so that epochs can be ranked."""
    if (said == said[0]).all() or (true == true[0]).all():
        return torch.zeros((), dtype=torch.float64)
    said, true = said - said.mean(), true - true.mean()
    return (said * true).sum() / (said.norm() * true.norm())


def _spearman(said: Tensor, true: Tensor) -> Tensor:
    """Pearson correlation of the ranks; equal values share their mean rank."""

    def ranks(values: Tensor) -> Tensor:
        _, place, counts = values.unique(return_inverse=True, return_counts=True)
        return (counts.cumsum(0) - (counts - 1) / 2)[place]

    return said.mean() * torch.nan if said.isnan().any() else _pearson(ranks(said).double(), ranks(true).double())


_FORMULAS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _pearson,  # of two columns of 0 and 1, it is the Matthews correlation
    "pearson": _pearson,
    "spearman": _spearman,
}
