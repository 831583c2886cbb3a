"""A plan carried out in this process, which keeps its warnings and signals; `train` sees to its random numbers."""

from __future__ import annotations

import os
import sys
import warnings

from modules.experiments.dashboards import begin
from modules.experiments.plan import Plan
from modules.experiments.stacking import stacks
from modules.launch import worker
from modules.launch.holders import forget
from modules.runs.ranks import launched, local_ranks
from modules.runs.results import ResultStore, RunResult
from variants.errors import UserError


def done_here(
    plan: Plan, results_dir: str, force: bool = False, stack: bool = False, live: bool | None = None
) -> list[RunResult]:
    """The results of a plan's runs, in their order; those that are missing are trained now.

    A run that another command is at is waited for.

    Args:
        force: train again what is done.
        stack: train the seeds of a task at once.
        live: whether a line moves; by default on a terminal and in a notebook.

    Raises:
        UserError: a run cannot be carried out.
    """
    store = ResultStore(results_dir)
    if force:
        forget(plan.runs, store)
    missing = [run for run in plan.runs if not store.done(run.id)]
    if missing:
        print("\n".join(plan.about), flush=True)
        begin(missing)
        _carry_out(stacks(missing) if stack else [[run] for run in missing], store, live)
    results = [store.read(run.id) for run in plan.runs]
    return [result for result in results if result is not None]


def _carry_out(groups: list[list], store: ResultStore, live: bool | None) -> None:
    for run in (run for group in groups for run in group):
        if run.variant.startswith("__main__:") and local_ranks(run.trainer) > 1 and not launched():
            raise UserError(
                f"{run.variant.rpartition(':')[2]} is known to this process alone, and --trainer.devices "
                f"{run.trainer['devices']} needs several: put the class in a file, and import it from there"
            )
        run.write()
    together = {run.id: [each.id for each in group] for group in groups for run in group}
    seed_before = os.environ.get("PL_GLOBAL_SEED")
    try:
        with warnings.catch_warnings():
            for id in together:
                worker.complete(id, store, together, live)
    except KeyboardInterrupt:
        print("\nstopped; the same call goes on from here", file=sys.stderr, flush=True)
        raise
    finally:
        os.environ.pop("PL_GLOBAL_SEED", None)
        if seed_before is not None:
            os.environ["PL_GLOBAL_SEED"] = seed_before
