"""What a command would run, and what that costs, without running it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from modules.experiments.published_runs import planned_runs, run_key
from modules.experiments.wishes import Wishes
from modules.reports.tables.section import short_name
from modules.runs.results import ResultStore


def show_plan(wishes: Sequence[Wishes], about: Iterable[str], results_dir: str) -> int:
    """Print a command per missing run, runs that others start from first, then what they cost; 0.

    Lines that are no commands begin with `#`, so that the output can be given to a shell or a scheduler.
    """
    from modules.experiments.cost_estimate import cost_lines

    found = {run.key: run for each in wishes for run in planned_runs(each)}
    done = _done(results_dir)
    todo = [run for key, run in found.items() if key not in done]
    for line in about:
        print(f"# {line}")
    print(f"# {len(found)} runs, {len(found) - len(todo)} done before; results: {results_dir}")
    first = wishes[0].benchmark.first_task
    for run in sorted((run for run in todo if not run.starts), key=lambda run: run.recipe.task != first):
        print(run.command)
    if later := [run for run in todo if run.starts]:
        title = wishes[0].benchmark.tasks[first].title
        print(f"# these start from the {title} run of the same seed: only after that one has ended")
    for run in later:
        print(run.command)
    sys.stdout.flush()
    for line in cost_lines(todo):
        print(f"# {line}", flush=True)
    return 0


def _done(results_dir: str) -> set[str]:
    """Keys of the runs that have a result."""
    return {
        run_key(
            run.benchmark, run.task, run.variant, run.protocol, run.seed,
            "embedded" if run.backbone["source"] == "embedded" else short_name(run.backbone["name"]),
            run.variant_config, run.training,
        )
        for run in ResultStore(results_dir).all()
    }  # fmt: skip
