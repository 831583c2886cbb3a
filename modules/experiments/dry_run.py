"""What a command would run, and what that costs, without running it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from modules.experiments.announcement import Settled, recipe_line, settings_lines
from modules.experiments.published_runs import PlannedRun, planned_runs, run_key
from modules.experiments.wishes import Wishes
from modules.launch.jobs.launch import Launch
from modules.launch.jobs.slurm import script
from modules.launch.progress_line import runs_text
from modules.reports.tables.section import short_name
from modules.runs.results import ResultStore


def show_plan(
    wishes: Sequence[Wishes],
    about: Iterable[str],
    results_dir: str,
    launch: Launch | None = None,
    jobs: int | None = None,
) -> int:
    """Print a command per missing run, runs that others start from first, then what they cost; 0.

    Lines that are no commands begin with `#`, so that the output can be given to a shell or a scheduler.

    Args:
        launch: for SLURM the output is the script of a job array.
        jobs: how many tasks of the array run at once.
    """
    from modules.experiments.cost_estimate import cost_lines

    found = {run.key: run for each in wishes for run in planned_runs(each)}
    done = _done(results_dir)
    todo = {key: run for key, run in found.items() if key not in done}
    settled = [
        Settled(r.variant.name, r.recipe.task, r.variant.options(), r.settings, r.training) for r in todo.values()
    ]
    said = [recipe_line([run.recipe for run in todo.values()])] if todo else []
    before = [*about, *said, *settings_lines(settled, wishes[0].benchmark)]
    before += [f"{runs_text(len(found))}, {len(found) - len(todo)} done before; results: {results_dir}"]
    if launch and launch.where == "slurm" and todo:
        print(
            script(_tasks(todo), launch.options, jobs, [*before, *cost_lines(list(todo.values()))]), end="", flush=True
        )
        return 0
    for line in before:
        print(f"# {line}")
    first = wishes[0].benchmark.first_task
    for run in sorted((run for run in todo.values() if not run.start), key=lambda run: run.recipe.task != first):
        print(run.command)
    if later := [run for run in todo.values() if run.start]:
        title = wishes[0].benchmark.tasks[first].title
        print(f"# these start from the {title} run of the same seed: only after that one has ended")
    for run in later:
        print(run.command)
    sys.stdout.flush()
    for line in cost_lines(list(todo.values())):
        print(f"# {line}", flush=True)
    return 0


def _tasks(todo: Mapping[str, PlannedRun]) -> list[str]:
    """A shell line for each task of an array: a run, and after it those that start from it, so that none waits."""
    chains: dict[str, list[str]] = {}
    for key, run in sorted(todo.items(), key=lambda item: item[1].start is not None):
        chains.setdefault(run.start if run.start in todo else key, []).append(run.command)
    return [" && ".join(commands) for commands in chains.values()]


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
