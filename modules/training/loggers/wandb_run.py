"""A run in Weights & Biases."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.documents import read_json
from modules.runs.tracking import Tracking
from modules.training.loggers.keys import EPOCH, HIDDEN, PER_EPOCH, STEP, summary_of
from modules.training.loggers.run_log import NONE, RunLog
from modules.training.loggers.wandb_mode import PATIENCE, give_up, settled
from variants.atomic import write_atomic
from variants.errors import UserError, first_line

PLACE = "wandb.json"
"""File in a run's folder that says where the run is in W&B."""
LONGEST_FINISH = 60.0
"""Seconds that the end of a run waits for the server; what is not there then is on this disk."""
PROJECT = "lora-variants"


@dataclass(frozen=True)
class Place:
    """Where a run is in W&B.

    Attributes:
        id: the run's.
        folder: its files on this disk, to be uploaded where it was offline.
        url: its page; empty offline.
    """

    id: str
    folder: str = ""
    url: str = ""

    @classmethod
    def read(cls, folder: Path) -> Place | None:
        """What :meth:`write` left; None where there is none, or where it is damaged: the run then is a new one."""
        if not (folder / PLACE).is_file():
            return None
        try:
            found = read_json(folder / PLACE)
        except UserError:
            return None
        texts = {key: found.get(key, "") for key in ("id", "folder", "url")} if isinstance(found, dict) else {}
        if not all(isinstance(text, str) for text in texts.values()) or not re.fullmatch(r"[\w-]{1,128}", texts["id"]):
            return None
        return cls(**texts)

    def write(self, folder: Path) -> None:
        """Leave it in the run's folder."""
        write_atomic(folder / PLACE, json.dumps({"id": self.id, "folder": self.folder, "url": self.url}) + "\n")


@dataclass
class Card:
    """What W&B is told of a run when it begins, in W&B's words."""

    name: str
    group: str
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    resume_id: str | None = None
    metrics: tuple[str, ...] = ()


class WandbRun(RunLog):
    """One run; several of them can be open in a process. Made by :func:`start`."""

    title = "Weights & Biases"

    def __init__(self, run: Any, card: Card) -> None:
        self.run, self.id = run, run.id
        for key in HIDDEN:
            run.define_metric(key, hidden=True)
        for key in ("train/*", "lr/*"):
            run.define_metric(key, step_metric=STEP)
        for key in PER_EPOCH:
            hidden = True if key in HIDDEN else None
            run.define_metric(key, step_metric=EPOCH, hidden=hidden)
        for name in (*card.metrics, "score", "loss"):
            best = summary_of(f"dev/{name}", (*card.metrics, "score"))
            run.define_metric(f"dev/{name}", step_metric=EPOCH, summary=best)

    @property
    def place(self) -> Place:
        """Where it is."""
        offline = self.run.settings._offline
        return Place(self.run.id, str(Path(self.run.dir).parent), "" if offline else self.run.url or "")

    def log(self, figures: Mapping[str, float], step: int, pictures: Mapping[str, Path] = NONE) -> None:
        """One row of history."""
        import wandb

        images = {key: wandb.Image(str(file)) for key, file in pictures.items()}
        self.run.log({**figures, **images, STEP: step})

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """As a `wandb.Table`."""
        import wandb

        self.run.log({key: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def adapter(self, folder: Path, name: str, alias: str, facts: Mapping[str, Any]) -> None:
        """As an artifact of type adapter: two of equal content are one version with both aliases."""
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="adapter", metadata=dict(facts))
        for file in sorted(folder.glob("[!.]*")):
            artifact.add_file(str(file))
        self.run.log_artifact(artifact, aliases=[alias])

    def alert(self, title: str, text: str, tag: str) -> None:
        """As an alert, which W&B sends by mail or Slack, and a tag."""
        import wandb

        self.run.tags = (*self.run.tags, tag)
        self.run.alert(title=title, text=text, level=wandb.AlertLevel.ERROR)

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """The summary; a run that failed does not end as finished."""
        self.run.summary.update(dict(summary))
        self.run.finish(exit_code=1 if failed else 0)


def start(tracking: Tracking, card: Card) -> WandbRun | None:
    """Begin a run; None where W&B is off. Where the server fails it is offline, and so are the following ones.

    Raises:
        Exception: whatever W&B raises of an offline run.
    """
    mode = settled(tracking.wandb)
    if mode == "off":
        return None
    import wandb

    agent = tracking.agent
    given = {
        "project": os.environ.get("WANDB_PROJECT") if agent else None,
        "entity": os.environ.get("WANDB_ENTITY") if agent else None,
    }
    options = {
        "project": given["project"] or tracking.wandb_project or os.environ.get("WANDB_PROJECT") or PROJECT,
        "entity": given["entity"] or tracking.wandb_entity or None,
        "name": card.name,
        "group": card.group,
        "job_type": tracking.job_type,
        "tags": card.tags,
        "notes": tracking.wandb_notes or None,
        "config": card.config,
        "dir": os.environ.get("WANDB_DIR", "."),
        "id": agent.get("run") or card.resume_id or secrets.token_hex(6),
        "resume": "allow" if agent or card.resume_id else None,
        "reinit": "create_new",  # stacked seeds are several runs of one process
    }
    known = wandb.Settings.model_fields
    fixed = {"silent": True, "init_timeout": PATIENCE, "finish_timeout": LONGEST_FINISH, "sweep_id": agent.get("sweep")}
    fixed = {key: value for key, value in fixed.items() if key in known and value is not None}
    if mode == "online":
        try:
            return WandbRun(wandb.init(mode=mode, settings=wandb.Settings(**fixed), **options), card)
        except Exception as error:
            give_up(tracking.wandb, f"no run could begin online ({first_line(error)})")
            options |= {"id": secrets.token_hex(6), "resume": None}  # W&B keeps the other one as begun
    return WandbRun(wandb.init(mode="offline", settings=wandb.Settings(**fixed), **options), card)
