"""Loggers beside W&B: Lightning's TensorBoard and CSV, and trackio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.runs.config import RunConfig
from modules.training.loggers import columns
from modules.training.loggers.run_log import NONE, RunLog
from modules.training.loggers.wandb_run import PROJECT


def finite_text(value: Any) -> Any:
    """A value as these loggers keep it: numbers and texts."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)


class TensorBoardRun(RunLog):
    """A run under RESULTS_DIR/tensorboard: `tensorboard --logdir RESULTS_DIR/tensorboard`."""

    title = "TensorBoard"

    def __init__(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        from lightning.pytorch.loggers import TensorBoardLogger

        self.logger = TensorBoardLogger(Path(config.results_dir), name="tensorboard", version=columns.name(config))
        self.logger.log_hyperparams({key: finite_text(value) for key, value in facts.items()})
        self.last = 0

    def log(self, figures: Mapping[str, float], step: int, pictures: Mapping[str, Path] = NONE) -> None:
        """Scalars, and pictures where there are any."""
        self.last = step
        self.logger.log_metrics(dict(figures), step=step)
        for key, file in pictures.items():
            import numpy
            from PIL import Image

            pixels = numpy.asarray(Image.open(file).convert("RGB"))
            self.logger.experiment.add_image(key, pixels, step, dataformats="HWC")

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """As Markdown text."""
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join("| " + " | ".join(str(cell).replace("\n", "<br>") for cell in line) + " |" for line in lines)
        self.logger.experiment.add_text(key, text, self.last)

    def alert(self, title: str, text: str, tag: str) -> None:
        """As text; TensorBoard calls nobody."""
        self.logger.experiment.add_text(title, text, self.last)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """The summary as scalars of the last step."""
        self.logger.log_metrics({key: float(value) for key, value in summary.items()}, step=self.last)
        self.logger.finalize("failed" if failed else "success")


class CsvRun(RunLog):
    """A run's rows in RESULTS_DIR/runs/ID/csv/metrics.csv, its columns in hparams.yaml beside it."""

    title = "The CSV logger"

    def __init__(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        from lightning.pytorch.loggers import CSVLogger

        folder = config.folder / "csv"
        tries = sum(1 for _ in folder.glob("metrics*.csv")) if folder.is_dir() else 0
        if tries:  # of a run that goes on: Lightning would begin the file anew
            (folder / "metrics.csv").replace(folder / f"metrics-{tries}.csv")
        self.logger = CSVLogger(config.folder, name="csv", version="")
        self.logger.log_hyperparams({key: finite_text(value) for key, value in facts.items()})
        self.last = 0

    def log(self, figures: Mapping[str, float], step: int, pictures: Mapping[str, Path] = NONE) -> None:
        """One line."""
        self.last = step
        self.logger.log_metrics(dict(figures), step=step)
        self.logger.save()

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """The summary as a line of its own."""
        self.logger.log_metrics(dict(summary), step=self.last)
        self.logger.finalize("failed" if failed else "success")


class TrackioRun(RunLog):
    """A run in trackio, on this disk: `trackio show --project lora-variants`."""

    title = "trackio"

    def __init__(self, config: RunConfig, facts: Mapping[str, Any]) -> None:
        import trackio

        self.run = trackio.init(
            project=config.wandb_project or PROJECT,
            name=columns.name(config),
            group=columns.group(config),
            config={key: finite_text(value) for key, value in facts.items()},
            resume="allow",
            embed=False,
        )
        self.last = 0

    def log(self, figures: Mapping[str, float], step: int, pictures: Mapping[str, Path] = NONE) -> None:
        """One row, with pictures where there are any."""
        import trackio

        self.last = step
        images = {key: trackio.Image(str(file)) for key, file in pictures.items()}
        self.run.log({**figures, **images}, step=step)

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """As a `trackio.Table`."""
        import pandas
        import trackio

        table = trackio.Table(dataframe=pandas.DataFrame([list(row) for row in rows], columns=list(columns)))
        self.run.log({key: table}, step=self.last)

    def alert(self, title: str, text: str, tag: str) -> None:
        """As an alert."""
        import trackio

        self.run.alert(title, text=text, level=trackio.AlertLevel.ERROR)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """The summary as a row."""
        self.run.log(dict(summary), step=self.last)
        self.run.finish()
