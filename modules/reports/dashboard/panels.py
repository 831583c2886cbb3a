"""The panels of workspace and report: a row of the table is a line or a bar, the mean over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ROW = "row"
"""The column of a run that names its row of the table: runs that differ in their seeds alone share it."""

PARETO = {
    "parameters/adapter": "trained adapter parameters",
    "cost/step_ms": "time of a step, ms",
    "cost/peak_memory_mb": "peak memory, MB",
}
"""What a score is set against, by key."""

SEARCHED = ("lr", "r", "alpha", "target", "dropout", "batch_size", "epochs")
"""Columns of the parallel coordinates."""

PICTURES = ("layers/rank_map", "layers/update_norm_map", "layers/grad_norm_map")
"""Heat maps over layers and time, where the variant or the run has them."""


def score_panels() -> list[Any]:
    """Curves and bars of the common score."""
    import wandb_workspaces.reports.v2 as wr

    over_epochs = {"x": "epoch", "groupby": wr.Config(ROW), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    bars = {"groupby": wr.Config(ROW), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev", "orientation": "h"}
    return [
        wr.LinePlot(title="dev score", y=["dev/score"], title_x="epoch", **over_epochs),
        wr.LinePlot(title="dev loss", y=["dev/loss"], title_x="epoch", **over_epochs),
        wr.BarPlot(title="best score of each row", metrics=[wr.SummaryMetric("best/score")], **bars),
    ]


def pareto_panels() -> list[Any]:
    """The best score against what it costs."""
    import wandb_workspaces.reports.v2 as wr

    score = wr.SummaryMetric("best/score")
    return [
        wr.ScatterPlot(
            title=f"score against {words}", x=wr.SummaryMetric(key), y=score, log_x=True, running_ymax=True,
            legend_template=f"${{config:{ROW}}}",
        )
        for key, words in PARETO.items()
    ]  # fmt: skip


def adapter_panels() -> list[Any]:
    """How far adapters move the weights, and where."""
    import wandb_workspaces.reports.v2 as wr

    grouped = {"x": "epoch", "groupby": wr.Config(ROW), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    return [
        wr.LinePlot(title="‖ΔW‖ / ‖W‖ of all layers", y=["update_norm/all"], title_x="epoch", **grouped),
        wr.LinePlot(title="gradient norm of all layers", y=["grad_norm/all"], log_y=True, title_x="epoch", **grouped),
        wr.LinePlot(title="mean rank (AdaLoRA)", y=["variant/mean_rank"], title_x="epoch", **grouped),
        wr.MediaBrowser(title="by layer and role, over time", media_keys=list(PICTURES), num_columns=2),
    ]


def training_panels() -> list[Any]:
    """Loss, learning rates and speed of single runs."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.LinePlot(title="training loss", y=["train/loss"], smoothing_type="exponential", smoothing_factor=0.6),
        wr.LinePlot(title="learning rates", y=["lr/adapter", "lr/head"]),
        wr.LinePlot(title="time of a step, ms", y=["train/step_ms"], log_y=True),
        wr.LinePlot(title="tokens per second", y=["train/tokens_per_s"]),
    ]


def search_panels() -> list[Any]:
    """Settings against the score: of sweeps and of runs that differ in several settings."""
    import wandb_workspaces.reports.v2 as wr

    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name), display_name=name) for name in SEARCHED]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric("best/score"), display_name="best score"))
    return [
        wr.ParallelCoordinatesPlot(title="settings and score", columns=columns),
        wr.ParameterImportancePlot(with_respect_to="best/score"),
        wr.RunComparer(diff_only="split"),
    ]


def table_panels() -> list[Any]:
    """The tables of commands, and outputs of language models."""
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.MediaBrowser(title="tables of commands, and outputs", media_keys=["table", "test/outputs"], num_columns=1)
    ]


SECTIONS: Sequence[tuple[str, Any]] = (
    ("Scores", score_panels),
    ("Score against cost", pareto_panels),
    ("What adapters learn", adapter_panels),
    ("Training", training_panels),
    ("Settings", search_panels),
    ("Tables", table_panels),
)
"""(title, its panels) in the order of the page."""
