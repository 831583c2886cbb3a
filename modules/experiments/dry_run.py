"""What a command would run, and what that costs, without running it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from modules.experiments.plan import Wishes
from modules.experiments.published_runs import _key, jobs
from modules.reports.tables.section import short_name
from modules.runs.results import ResultStore

# ---- --plan -------------------------------------------------------------------------------------------------------


def show_plan(wishes: Sequence[Wishes], about: Iterable[str], results_dir: str) -> int:
    """Print a command per missing run, MNLI runs that others start from first, then what they cost; 0.

    Lines that are no commands begin with `#`, so that the output can be given to a shell or a scheduler.
    """
    from modules.experiments.cost_estimate import cost_lines

    found = {job.key: job for each in wishes for job in jobs(each)}
    done = _done(results_dir)
    todo = [job for key, job in found.items() if key not in done]
    for line in about:
        print(f"# {line}")
    print(f"# {len(found)} runs, {len(found) - len(todo)} done before; results: {results_dir}")
    for job in sorted((job for job in todo if not job.starts), key=lambda job: job.recipe.task != "mnli"):
        print(job.command)
    if later := [job for job in todo if job.starts]:
        print("# these start from the MNLI run of the same seed: only after that one has ended")
    for job in later:
        print(job.command)
    sys.stdout.flush()
    for line in cost_lines(todo):
        print(f"# {line}", flush=True)
    return 0


def _done(results_dir: str) -> set[str]:
    """Keys of the runs that have a result."""
    return {
        _key(
            run.benchmark, run.task, run.variant, run.protocol, run.seed,
            "embedded" if run.backbone["source"] == "embedded" else short_name(run.backbone["name"]),
            run.variant_config, run.training,
        )
        for run in ResultStore(results_dir).all()
    }  # fmt: skip
