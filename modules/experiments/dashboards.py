"""What a command does for the dashboards of its runs: before the first of them, and after the last."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.paths import PUBLISHED
from modules.runs.config import RunConfig
from modules.runs.ranks import rank
from modules.runs.results import ResultStore, RunResult
from modules.training.loggers import columns, keys
from modules.training.loggers.wandb_mode import settled
from modules.training.loggers.wandb_run import PROJECT, Card, Place, start

AGENT = {"run": "WANDB_RUN_ID", "sweep": "WANDB_SWEEP_ID", "parameters": "WANDB_SWEEP_PARAM_PATH"}
"""What W&B's agent tells a command that it starts -> by which variables."""
FEW = 3  # runs whose folders are named one by one
NUMBERS = ("value", "spread", "last_value", "last_spread", "adapter_params", "head_params", "total_params", "step_ms")
NUMBERS += ("peak_memory_mb", "train_rows", "scored_rows", "diverged")
"""Columns of the table that are numbers where they are single values."""


def begin(runs: Sequence[RunConfig]) -> dict[str, str]:
    """Settle how W&B records, once for all runs, and give the agent's id, where an agent of a sweep has started the
    command, to the first of them alone: the others have ids of their own. To be called before they are written.

    Returns:
        What the agent has told, for :func:`end`; empty where there is none.
    """
    told = {key: os.environ.pop(name) for key, name in AGENT.items() if os.environ.get(name)}
    agent = {key: told[key] for key in ("run", "sweep") if key in told}
    if runs and "wandb" in runs[0].loggers:
        runs[0].agent = agent
        if rank() == 0:
            settled(runs[0].wandb)
    return agent


def end(
    runs: Sequence[RunConfig], trained: Sequence[RunConfig], benchmark: Benchmark, agent: dict[str, str] | None = None
) -> None:
    """Put the table of the command on W&B, as a run of its own, and say where to look, if anything is new there.

    Args:
        runs: all that the command speaks of; trained: those that it has trained.
        agent: what :func:`begin` has returned: where nothing was left to train, the table's run has the agent's id and
            the score, so that the sweep gets its figure.
    """
    if not runs or rank() != 0:
        return
    first = runs[0]
    agent, told = ({}, bool(agent)) if trained else (agent or {}, False)
    places = [place for run in trained if (place := Place.read(run.folder))]
    if "wandb" in first.loggers and (agent or (places and not told)):  # a trial of an agent's is no table
        try:
            places.append(_table(first, [run.id for run in runs], benchmark, agent))
        except Exception as error:  # the results are there: no dashboard may make them look lost
            warnings.warn(f"the table is not on Weights & Biases: {error}", stacklevel=2)
    for line in where_to_look(first, [place for place in places if place]) if trained or places else ():
        print(line)


def decoded(
    folder: Path,
    wandb: str | None,
    settings: Mapping[str, Any],
    scores: Mapping[str, float | None],
    rows: Sequence[tuple[str, str]],
) -> list[str]:
    """Put a decoding of the outputs of a finished run on W&B, as a run of its own in that one's group.

    Args:
        folder: of the run that was decoded; wandb: the mode, by default the run's.
        settings: of the search; scores: of its outputs; rows: a few of them.

    Returns:
        Lines that say where to look.
    """
    config = RunConfig.read(str(folder.parent.parent), folder.name)
    tracking = dataclasses.replace(config, job_type="decode", agent={}, wandb=wandb or config.wandb)
    if "wandb" not in tracking.loggers:
        return []
    try:
        facts = columns.columns(config, {}, "") | {f"decode.{name}": value for name, value in settings.items()}
        card = Card(f"{columns.name(config)}-decode", columns.group(config), columns.tags(config), facts)
        if (run := start(tracking, card)) is None:
            return []
        place = run.place
        run.table("test/outputs", ("output", "reference"), rows)
        run.finish({f"test/{name}": value for name, value in scores.items() if value is not None}, failed=False)
        return where_to_look(dataclasses.replace(tracking, logger="wandb"), [place])
    except Exception as error:  # the scores are there
        warnings.warn(f"the decoding is not on Weights & Biases: {error}", stacklevel=2)
        return []


def where_to_look(config: RunConfig, places: Sequence[Place]) -> list[str]:
    """A line for each logger that says where its figures are.

    Args:
        places: of the runs in W&B.
    """
    lines = []
    if online := [place.url for place in places if place.url]:
        lines.append(f"W&B: {online[0] if len(online) == 1 else online[0].partition('/runs/')[0]}")
    if offline := [place.folder for place in places if not place.url]:
        parent = os.path.relpath(Path(offline[0]).parent)
        named = [os.path.relpath(folder) for folder in offline] if len(offline) <= FEW else []
        what = shlex.join(named) if named else f"{shlex.quote(parent)}/offline-run-*"
        lines.append(f"W&B, offline: wandb leet {shlex.quote(parent)}   upload: wandb sync {what}")
    results = shlex.quote(config.results_dir)
    others = {
        "trackio": f"trackio show --project {shlex.quote(config.wandb_project or PROJECT)}",
        "tensorboard": f"tensorboard --logdir {results}/tensorboard",
        "csv": f"{results}/runs/ID/csv/metrics.csv",
    }
    return lines + [f"{name}: {others[name]}" for name in config.loggers if name in others]


def _table(first: RunConfig, ids: Sequence[str], benchmark: Benchmark, agent: dict[str, str]) -> Place | None:
    """The table of some runs as a run of W&B, published rows beside; where it is, or None where W&B is off."""
    results = [result for id in ids if (result := ResultStore(first.results_dir).read(id))]
    if not results:
        return None
    names, rows = table(results, benchmark)
    command = shlex.join(["python", *sys.argv])
    facts = {"benchmark": benchmark.name, "command": command, "results_dir": first.results_dir, "runs": len(results)}
    tracking = dataclasses.replace(first, job_type="table", agent=agent)
    run = start(tracking, Card(f"{benchmark.name}-table", f"{benchmark.name} tables", first.tags, facts))
    if run is None:
        return None
    place = run.place
    run.table("table", names, rows)
    run.finish(keys.summary(results[0]) if agent else {}, any(result.diverged for result in results) and bool(agent))
    return place


def table(results: Sequence[RunResult], benchmark: Benchmark) -> tuple[list[str], list[list[str | float | None]]]:
    """(columns, rows) of the table of some runs in long form, with the published rows of their variants."""
    from modules.reports.formats.csv_table import to_csv
    from modules.reports.tables.build import build
    from modules.reports.tables.published import load_published

    text = to_csv(build(results, benchmark, load_published(PUBLISHED, benchmark.name)))
    names, *rows = list(csv.reader(io.StringIO(text)))
    return names, [
        [_number(value) if name in NUMBERS else value for name, value in zip(names, row, strict=True)] for row in rows
    ]


def _number(text: str) -> float | None:
    """A number; None of an empty cell, and of a span such as 3-5."""
    try:
        return float(text)
    except ValueError:
        return None
