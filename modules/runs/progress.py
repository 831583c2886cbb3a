"""How far a run is: a small file in its folder, which the command that waits for the run shows."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

FILE = "progress.json"
SHOWN_BY = "LORA_VARIANTS_PROGRESS"
"""Variable that a command sets for its workers: "line" where it draws a moving line of all runs, "lines" where each
event is a line."""


@dataclass(frozen=True)
class Progress:
    """What a run is doing now.

    Attributes:
        doing: such as "training".
        step, steps: optimizer steps done, and all of them; 0 where they are not known yet.
        epoch, epochs: the epoch that it is in, from 1, and all of them.
        score: of the epoch before, in words, such as "accuracy 87.1"; "" before the first.
    """

    doing: str
    step: int = 0
    steps: int = 0
    epoch: int = 0
    epochs: int = 0
    score: str = ""

    @property
    def share(self) -> float:
        """The part of its steps that is done."""
        return self.step / self.steps if self.steps else 0.0

    def write(self, folder: Path) -> None:
        """Leave it in the run's folder, where somebody watches; a disk that is full is left to others to tell."""
        if SHOWN_BY not in os.environ:
            return
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            new = folder / f"{FILE}.new"
            new.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")
            os.replace(new, folder / FILE)


def read(folder: Path) -> Progress | None:
    """What the run of a folder is doing; None where nothing is known of it."""
    try:
        return Progress(**json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def clear(folder: Path) -> None:
    """The run of a folder is at an end."""
    for name in (FILE, f"{FILE}.new"):
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def clock(seconds: float) -> str:
    """Such as 0:07, 12:30 or 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
