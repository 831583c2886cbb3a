"""The metrics of a text task as one torchmetrics class: exact on any number of processes, whatever each one holds.

Dev sets are small (GLUE: 40,430 rows at most), so outputs are kept and scored once per epoch: no running formula has
to be merged, and every metric is that of the whole split.

The formulas are written out: torchmetrics' own give 0.41 and not 0 for the Matthews correlation of [1, 1, 1] with
[1, 0, 1], NaN for a Pearson correlation of predictions that differ by less than 1e-4, and 1 - 1.5e-6 for a perfect
Spearman correlation. These agree with scikit-learn and SciPy, which GLUE's scorer uses.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.benchmarks.text.task import TextTask

_FILLER = -1  # the split number of rows that do not count


class TextMetrics(Metric):
    """All metrics of one task over its dev splits; `compute()` gives {name: value}, values as fractions.

    Where a task has several dev splits, a metric is given pooled over all rows ("accuracy") and for each split that has
    rows ("accuracy_matched", "accuracy_mismatched").
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    outputs: list[Tensor]
    targets: list[Tensor]
    splits: list[Tensor]

    def __init__(self, task: TextTask, **kwargs):
        super().__init__(**kwargs)
        self.task = task
        # Three flat float32 states: torchmetrics gathers uneven lengths, and gives a rank without rows an empty float.
        for name in ("outputs", "targets", "splits"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor, weight: Tensor, split: int = 0) -> None:
        """Adds a batch: logits (B, C), labels (B,) or (B, C), weight (B,) with 0 for filler rows; `split` indexes
        `eval_splits`.

        Only appends device tensors: no host synchronisation.
        """
        self.outputs.append(logits.detach().float().flatten().clone())  # a graph of a GPU writes its logits anew
        self.targets.append(labels.detach().float().flatten())
        self.splits.append(torch.where(weight > 0, float(split), float(_FILLER)))

    def compute(self) -> dict[str, Tensor]:
        """The metrics over the rows of all processes (float64 scalars on the CPU)."""
        outputs, targets, splits = (
            torch.cat(state) if isinstance(state, list) else state
            for state in (self.outputs, self.targets, self.splits)
        )
        # Leaving the device once per epoch; float64, since float32 loses a small spread far from zero.
        outputs = outputs.cpu().double().reshape(-1, self.task.num_labels)
        targets, splits = targets.cpu().double(), splits.cpu()
        if self.task.multi:
            targets = targets.reshape(outputs.shape)
        values = {}
        for name in self.task.metrics:
            base, part = (name, "") if name in _FORMULAS else name.rsplit("_", 1)
            kept = splits != _FILLER
            if part:
                kept = splits == self.task.eval_splits.index(f"validation_{part}")
            if kept.any():
                values[name] = _FORMULAS[base](Scored(self.task.kind, outputs[kept], targets[kept]))
        return values


class Scored:
    """The rows of an evaluation.

    Attributes:
        kind: of the labels (`TextTask.kind`).
        outputs: (N, C) logits; (N, 1) scores.
        true: (N,) class or score; (N, C) ones and zeros where a row has any number of labels.
    """

    def __init__(self, kind: str, outputs: Tensor, true: Tensor) -> None:
        self.kind, self.outputs, self.true = kind, outputs, true

    @cached_property
    def said(self) -> Tensor:
        """What the outputs say, in the form of `true`."""
        if self.kind == "classes":
            return self.outputs.argmax(-1).double()
        return self.outputs[:, 0] if self.kind == "score" else (self.outputs > 0).double()

    @cached_property
    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each class (C,): rows that have it and are said to, rows that are said to, rows that have it."""
        said, true = self.said, self.true
        if self.kind == "classes":
            classes = torch.arange(self.outputs.shape[1])
            said, true = (values[:, None].eq(classes).double() for values in (said, true))
        both, said, true = (said * true).sum(0), said.sum(0), true.sum(0)
        there = torch.ones_like(true, dtype=bool) if self.kind == "multi" else (said + true) > 0  # as scikit-learn does
        return both[there], said[there], true[there]

    @cached_property
    def chances(self) -> tuple[Tensor, Tensor]:
        """(N, K) what ranks the rows for each label, and (N, K) whether they have it; K = 1 for two classes."""
        if self.kind == "multi":
            return self.outputs, self.true
        if self.outputs.shape[1] == 2:
            return (self.outputs[:, 1] - self.outputs[:, 0])[:, None], self.true[:, None]
        return self.outputs.softmax(-1), self.true[:, None].eq(torch.arange(self.outputs.shape[1])).double()


def _accuracy(rows: Scored) -> Tensor:
    """Share of rows that are right; of several labels all must be."""
    right = rows.said == rows.true
    return (right.all(-1) if rows.kind == "multi" else right).double().mean()


def _f1(rows: Scored) -> Tensor:
    """F1 of class 1 of two; 0 where it is neither predicted nor present."""
    said, true = rows.said, rows.true
    return 2 * (said * true).sum() / (said.sum() + true.sum()).clamp(min=1)


def _f1_macro(rows: Scored) -> Tensor:
    """Mean over the classes of their F1; those that are neither predicted nor present do not count."""
    both, said, true = rows.counts
    return (2 * both / (said + true).clamp(min=1)).mean()


def _f1_micro(rows: Scored) -> Tensor:
    """F1 of all labels of all rows together."""
    both, said, true = (count.sum() for count in rows.counts)
    return 2 * both / (said + true).clamp(min=1)


def _precision_macro(rows: Scored) -> Tensor:
    both, said, _ = rows.counts
    return (both / said.clamp(min=1)).mean()


def _recall_macro(rows: Scored) -> Tensor:
    both, _, true = rows.counts
    return (both / true.clamp(min=1)).mean()


def _matthews(rows: Scored) -> Tensor:
    """Matthews correlation, of any number of classes (Gorodkin 2004, R_K); 0 where it is undefined."""
    if rows.outputs.shape[1] == 2:
        return _correlation(rows.said, rows.true)  # of two columns of 0 and 1 the same
    both, said, true = rows.counts
    count, right = len(rows.true), both.sum()
    spreads = (count**2 - said.square().sum()) * (count**2 - true.square().sum())
    return (count * right - (said * true).sum()) / spreads.sqrt() if spreads > 0 else torch.zeros((), dtype=both.dtype)


def _auroc(rows: Scored) -> Tensor:
    """Area under the ROC curve; the mean over classes against the rest, or labels, that rows have and lack."""
    found = []
    for value, has in zip(*(part.unbind(-1) for part in rows.chances), strict=True):
        there = has.sum()
        if 0 < there < len(has):
            found.append((_ranks(value)[has > 0].sum() - there * (there + 1) / 2) / (there * (len(has) - there)))
    return torch.stack(found).mean() if found else torch.tensor(0.5, dtype=torch.float64)


def _correlation(said: Tensor, true: Tensor) -> Tensor:
    """Pearson correlation. With a constant it is undefined: 0, so that epochs can be ranked."""
    if (said == said[0]).all() or (true == true[0]).all():
        return torch.zeros((), dtype=torch.float64)
    said, true = said - said.mean(), true - true.mean()
    return (said * true).sum() / (said.norm() * true.norm())


def _ranks(values: Tensor) -> Tensor:
    """From 1; equal values share their mean rank."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2)[place].double()


def _spearman(rows: Scored) -> Tensor:
    """Pearson correlation of the ranks."""
    said, true = rows.said, rows.true
    return said.mean() * torch.nan if said.isnan().any() else _correlation(_ranks(said), _ranks(true))


def _neg_mse(rows: Scored) -> Tensor:
    """Mean squared error with its sign turned, so that higher is better; scikit-learn's convention."""
    return -(rows.said - rows.true).square().mean()


_FORMULAS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "f1_macro": _f1_macro,
    "f1_micro": _f1_micro,
    "precision_macro": _precision_macro,
    "recall_macro": _recall_macro,
    "matthews": _matthews,
    "auroc": _auroc,
    "pearson": lambda rows: _correlation(rows.said, rows.true),
    "spearman": _spearman,
    "neg_mse": _neg_mse,
    "neg_rmse": lambda rows: -(-_neg_mse(rows)).sqrt(),
    "neg_mae": lambda rows: -(rows.said - rows.true).abs().mean(),
}
