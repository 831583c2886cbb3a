"""The training settings of a person's own data."""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.settings import setting
from modules.benchmarks.text.settings import TextSettings

METRICS = {
    "accuracy": "accuracy",
    "f1": "f1_macro",
    "f1_micro": "f1_micro",
    "precision": "precision_macro",
    "recall": "recall_macro",
    "matthews": "matthews",
    "auroc": "auroc",
    "pearson": "pearson",
    "spearman": "spearman",
    "mse": "neg_mse",
    "rmse": "neg_rmse",
    "mae": "neg_mae",
}
"""Words of --metric -> names in result files. Higher is better everywhere: errors are kept with their sign turned."""
DEFAULT = {"classes": "accuracy,f1", "score": "pearson,spearman,rmse", "multi": "f1,accuracy"}
"""By kind of label, what is scored where --metric is not given."""


@dataclass(frozen=True, kw_only=True)
class CustomSettings(TextSettings):
    """Beside those of texts: what is scored."""

    metric: str | None = setting(
        "comma list of what is scored; the first picks the best epoch, and f1, precision and recall are means over the "
        "classes (default: accuracy,f1 of classes; pearson,spearman,rmse of scores; f1,accuracy of several labels)",
        None,
        choices=METRICS,
        many=True,
    )
