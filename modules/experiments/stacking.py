"""`--stack_seeds`, `--stack_rates`: which runs can be trained at once, as stacked adapters on one backbone."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from modules.benchmarks.base import settings_of
from modules.runs.config import RunConfig
from modules.runs.ranks import launched, local_ranks
from variants.errors import UserError


def stacks(runs: Sequence[RunConfig], where_possible: bool = False, rates: int = 0) -> list[list[RunConfig]]:
    """The runs that differ in their seeds alone, together, in the order of the first of each.

    Where Trainer options name several devices of this machine, the seeds are dealt to them: each device trains a stack
    of its own, and no run is spread over several. Configurations therefore come back without ``devices``.

    Args:
        where_possible: leave a run that cannot be stacked to itself.
        rates: if above 0, together too what differs in its learning rate, so many runs at most in a stack; those of one
            seed stand side by side.

    Raises:
        UserError: a run cannot be stacked with others, or is to be spread in another way.
    """
    groups: dict[str, list[RunConfig]] = {}
    for run in runs:
        if run.trainer.get("num_nodes", 1) != 1 or "strategy" in run.trainer or launched():
            raise UserError(
                "--stack_seeds and --stack_rates train each run on one device, and start the processes themselves: "
                "leave them out, or --trainer.num_nodes, --trainer.strategy and a launcher such as torchrun or srun"
            )
        if reason := _why_alone(run):
            if not where_possible:
                raise UserError(reason)
            groups[run.id] = [run]
            continue
        shared = dataclasses.asdict(run) | dict.fromkeys(("seed", "command", "agent"))
        shared["init_from"] = run.init_from and run.init_from["task"]
        shared["trained_as"] = run.trained_as is not None  # what is scored alone waits for no training
        if rates:
            shared |= {key: {**shared[key], "lr": None} for key in ("training", "overrides")}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    if rates:
        for group in groups.values():
            group.sort(key=lambda run: run.seed)
    return [part for group in groups.values() for part in _dealt(group, rates or len(group))]


def _dealt(group: list[RunConfig], most: int) -> list[list[RunConfig]]:
    """A stack for each device that the runs' Trainer options ask for, or more, so that none has above ``most`` runs."""
    parts = max(local_ranks(group[0].trainer), -(-len(group) // most))
    trainer = {name: value for name, value in group[0].trainer.items() if name != "devices"}
    alone = [dataclasses.replace(run, trainer=trainer) for run in group]
    return [alone[k::parts] for k in range(min(parts, len(alone)))]


def _why_alone(run: RunConfig) -> str | None:
    """Why a run cannot be stacked with those of other seeds, or None."""
    from variants.adapters.stacked_layer import why_not
    from variants.registry import resolve

    if reason := why_not(resolve(run.variant), packed=bool(run.training.get("quantise"))):
        return f"--stack_seeds: {run.name} cannot be stacked, since {reason}; leave the flag out"
    if settings_of(run).precision.startswith("16"):
        return "--stack_seeds is not for fp16, where one seed's overflow would skip the steps of all"
    return None
