"""Where the figures of runs are shown while they train: the fields of `--logger` and `--wandb...`. No torch here."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

from variants.errors import UserError

LOGGERS = {"wandb": "wandb", "trackio": "trackio", "tensorboard": "tensorboard", "csv": ""}
"""Values of --logger -> the package that each needs."""

MODES = ("auto", "online", "offline", "off")
"""Values of --wandb."""

JOB_TYPES = ("train", "tune", "decode", "table")
"""What a run of a dashboard is: of a table's row, of the search for its settings, a decoding of the outputs of another
run, or the table of a command."""

FLAGS = {
    "logger": "where figures are shown, a comma list of " + ", ".join(LOGGERS) + ", or none (default: wandb)",
    "wandb": "mode of W&B, one of " + ", ".join(MODES) + "; auto: online if logged in, else offline (default: auto)",
    "wandb_project": "project in W&B and trackio (default: $WANDB_PROJECT, else lora-variants)",
    "wandb_entity": "user or team in W&B (default: $WANDB_ENTITY, else yours)",
    "wandb_tags": "comma list of tags for W&B, beside protocol and backbone",
    "wandb_notes": "notes for W&B",
}
"""The flags with a text as value -> their help; ``--wandb_artifacts`` is a switch."""

ARTIFACTS_HELP = "upload the best and the last adapter of each run to W&B as artifacts"


@dataclass(kw_only=True)
class Tracking:
    """The dashboards of a command and its runs; none of it decides an outcome.

    Attributes:
        logger: a comma list of `LOGGERS`, or none.
        wandb: one of `MODES`.
        wandb_project, wandb_entity, wandb_tags, wandb_notes: as W&B has them, tags as a comma list; empty for its own
            defaults.
        wandb_artifacts: whether adapters are uploaded.
        job_type: one of `JOB_TYPES`.
        agent: of the run that stands for its command in a W&B sweep: ``sweep`` and ``run``, both ids of the agent's.
    """

    logger: str = "wandb"
    wandb: str = "off"
    wandb_project: str = ""
    wandb_entity: str = ""
    wandb_tags: str = ""
    wandb_notes: str = ""
    wandb_artifacts: bool = False
    job_type: str = "train"
    agent: dict[str, str] = field(default_factory=dict)

    @property
    def loggers(self) -> list[str]:
        """The names in :attr:`logger`, without W&B where its mode is off."""
        names = [name for name in parts(self.logger) if name != "none"]
        return [name for name in dict.fromkeys(names) if name != "wandb" or self.wandb != "off"]

    @property
    def tags(self) -> list[str]:
        """The person's own tags."""
        return parts(self.wandb_tags)


def parts(text: str) -> list[str]:
    """The parts of a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def check_tracking(tracking: Tracking) -> None:
    """Raise UserError where a logger or a mode does not exist, or a logger's package is not installed."""
    if tracking.wandb not in MODES:
        raise UserError(f"--wandb must be one of {', '.join(MODES)}, not {tracking.wandb!r}")
    if unknown := [name for name in parts(tracking.logger) if name not in (*LOGGERS, "none")]:
        raise UserError(f"--logger takes {', '.join(LOGGERS)}, or none, not {unknown[0]!r}")
    if "none" in parts(tracking.logger) and len(parts(tracking.logger)) > 1:
        raise UserError(f"--logger {tracking.logger}: none stands alone; leave it or the others out")
    for name in tracking.loggers:
        if LOGGERS[name] and importlib.util.find_spec(LOGGERS[name]) is None:
            raise UserError(f"--logger {name} needs a package: pip install {LOGGERS[name]}")
