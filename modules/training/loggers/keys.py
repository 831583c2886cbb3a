"""The names of figures on every dashboard, and their axes: all of them stand here.

    a row each logged step    train/loss, train/step_ms, train/tokens_per_s, lr/adapter, lr/head
    a row each epoch          epoch, train/loss_epoch, dev/loss, dev/METRIC, dev/score, best/score, variant/NAME,
                              update_norm/LAYER/ROLE, update_norm/all, grad_norm/LAYER/ROLE, grad_norm/all
    once, at the end          best/NAME, test/NAME, test/score, cost/NAME, parameters/NAME, diverged, truncated

``score`` is the run's main metric under one name for all tasks, a fraction: dev/score of an epoch, best/score of the
best epoch so far, test/score of a benchmark with a test set. Where a run diverged or is truncated there is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.runs.results import RunResult, finite_losses

STEP, EPOCH = "trainer/global_step", "epoch"
"""The axes: Lightning's name of the optimizer step, and the epoch from 1."""

PER_EPOCH = ("train/loss_epoch", "dev/*", "best/*", "variant/*", "update_norm/*", "grad_norm/*")
"""What has the epoch as its axis."""

HIDDEN = (STEP, EPOCH, "update_norm/*", "grad_norm/*")
"""What needs no panel of its own: axes, and figures of single layers, which heat maps show."""


def summary_of(key: str, metrics: tuple[str, ...]) -> str:
    """Which value of a figure W&B shows in its table: the best of a metric, the lowest loss, else the last."""
    return "min" if key.endswith("loss") else "max" if key.removeprefix("dev/") in metrics else "last"


def step_row(loss: float, seconds: float, tokens: float, rates: Mapping[str, float]) -> dict[str, float]:
    """The figures of a logged step.

    Args:
        seconds: mean time of a step since the last logged one of the epoch.
        tokens: mean tokens of a step.
        rates: learning rates by the names of the optimizer's groups.
    """
    speed = {"train/step_ms": 1000 * seconds, "train/tokens_per_s": tokens / seconds}
    return {"train/loss": loss, **speed, **{f"lr/{name}": rate for name, rate in rates.items()}}


def epoch_row(
    figures: Mapping[str, Any],
    metric: str,
    best: Mapping[str, Any],
    variant: Mapping[str, float],
    truncated: bool = False,
) -> dict[str, float]:
    """The figures of an epoch.

    Args:
        figures: as the history has them; metric: the main one.
        best: the figures of the best epoch so far.
        variant: the variant's own, without those of single layers.
        truncated: whether the run sees a part of the rows alone, which gives no score.
    """
    row = {EPOCH: figures["epoch"], "train/loss_epoch": figures["train_loss"]}
    row |= {f"dev/{name}": value for name, value in figures.items() if name not in ("epoch", "train_loss")}
    if not finite_losses(figures):  # the score of a model whose answers are noise is none
        row |= {"diverged": 1}
    elif not truncated:
        row |= {"dev/score": figures[metric], "best/score": best[metric]}
    return row | {f"variant/{name}": value for name, value in variant.items()}


def summary(result: RunResult) -> dict[str, Any]:
    """The figures of a whole run; what is no single number is left out, and so is the score of one that diverged
    or was truncated."""
    test = result.test or {}
    found = {f"best/{name}": value for name, value in result.best.items()}
    found |= {f"test/{name}": value for name, value in test.items()}
    if not result.fault:
        found |= {"best/score": result.best[result.metric], "test/score": test.get(result.metric)}
    found |= {f"cost/{name}": value for name, value in result.cost.items()}
    found |= {f"parameters/{name}": value for name, value in result.parameters.items()}
    found |= {"diverged": result.diverged, "truncated": result.truncated}
    return {name: value for name, value in found.items() if isinstance(value, (bool, int, float))}
