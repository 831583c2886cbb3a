"""`--stack_seeds`: which runs can be trained at once, as stacked adapters on one backbone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from modules.benchmarks.base import settings_of
from modules.runs.config import RunConfig
from variants.errors import UserError


def stacks(runs: Sequence[RunConfig], where_possible: bool = False) -> list[list[RunConfig]]:
    """The runs that differ in their seeds alone, together, in the order of the first of each.

    Args:
        where_possible: leave a run that cannot be stacked to itself.

    Raises:
        UserError: a run cannot be stacked with others.
    """
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        if reason := _why_alone(run):
            if not where_possible:
                raise UserError(reason)
            groups[run.id] = [run]
            continue
        shared = dataclasses.asdict(run) | {"seed": None, "init_from": run.init_from and run.init_from["task"]}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    return list(groups.values())


def _why_alone(run: RunConfig) -> str | None:
    """Why a run cannot be stacked with those of other seeds, or None."""
    from variants.adapters.stack import why_not
    from variants.registry import resolve

    if reason := why_not(resolve(run.variant)):
        name = run.variant.rpartition(":")[2]
        return f"--stack_seeds: {name} cannot be stacked, since {reason}; leave the flag out"
    if takes_several(run.trainer):
        return "--stack_seeds trains all seeds on one device: leave it out, or --trainer.devices and such"
    if settings_of(run).precision.startswith("16"):
        return "--stack_seeds is not for fp16, where one seed's overflow would skip the steps of all"
    return None


def takes_several(trainer: Mapping[str, Any]) -> bool:
    """Whether Trainer options spread one run over several processes."""
    return trainer.get("devices", 1) not in (1, "1") or trainer.get("num_nodes", 1) != 1 or "strategy" in trainer
