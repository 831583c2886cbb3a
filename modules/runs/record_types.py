"""The parts of a result file, by their types: a file is checked against them when it is read."""

from __future__ import annotations

import math
from typing import Any, TypedDict

Score = float | None
"""A figure; null in the file where it is not finite."""


class Origin(TypedDict):
    """Where a backbone or data are from."""

    source: str
    name: str
    hash: str


class _Data(Origin):
    sizes: dict[str, int]


class Data(_Data, total=False):
    """The rows of a run, how many there are by split, and what a reader must know of them, such as what they lack."""

    notes: list[str]


class Start(TypedDict):
    """The run whose weights another started from."""

    task: str
    id: str


class Budget(TypedDict):
    """Trained adapter parameters: as --budget asked for, and counted."""

    wanted: int
    counted: int


class Parameters(TypedDict):
    """Counts; those of adapter and head train."""

    adapter: int
    head: int
    total: int


class Cost(TypedDict, total=False):
    """What a run cost: see `modules.training.cost`."""

    step_ms: float | None
    epoch_step_ms: list[float]
    peak_memory_mb: float | None
    wall_s: float | None
    diverged: bool
    stacked: int
    trained_as: str  # folder, from the results folder, of the run whose training this is: only the scoring was its own


class Machine(TypedDict, total=False):
    """Where a run was carried out: see `modules.runs.environment`."""

    device: str
    devices: int
    runs_at_once: int
    time: str


def finite(value: Any) -> Any:
    """The value with None in place of numbers that are not finite, as a file has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
