"""The command line of a benchmark: from flags (`modules.experiments.flags`) to runs, and to their table."""

from __future__ import annotations

import os
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.command_line import guarded
from modules.command_line.waiting import waiting
from modules.experiments.announcement import Settled, check_variants, settings_lines
from modules.experiments.config_files import expanded
from modules.experiments.dashboards import begin, end
from modules.experiments.flags import make_parser, variant_in
from modules.experiments.plan import Plan, check_wishes, make_plan, merge
from modules.experiments.stacking import stacks
from modules.experiments.wishes import Wishes
from modules.launch.holders import forget, say_what_is_missing
from modules.launch.jobs.launch import Launch, carry_out
from modules.launch.progress_line import runs_text
from modules.paths import PUBLISHED
from modules.reports.show import show_paper_table, show_table
from modules.runs.ranks import rank
from variants.errors import UserError
from variants.registry import outline, resolve


def main(argv: list[str], benchmark: Benchmark) -> int:
    """Run a benchmark's command; the exit code: 0, 2 after a mistake of the user's, 1 after a failure."""
    return guarded(lambda: carry_out_flags(expanded(argv), benchmark))


def carry_out_flags(argv: list[str], benchmark: Benchmark) -> int:
    """What a benchmark's command does with its flags, --config written out; the exit code. Raises UserError."""
    if "-h" in argv or "--help" in argv:
        make_parser(outline(variant_in(argv)), benchmark).print_help()
        return 0
    with waiting("starting"):
        cls = resolve(variant_in(argv))
    flags = make_parser(cls, benchmark).parse_args(argv)
    if flags.table_only:
        named = any(flags.get(name) is not None for name in benchmark.data_flags)
        tasks = Wishes.of(flags, benchmark, cls).benchmark.tasks if named else None
        return show_table(flags.results_dir, benchmark=benchmark, tasks=tasks)
    launch = Launch.of(flags.launch, flags.get("slurm"), submits=not flags.plan)
    wishes = Wishes.of(flags, benchmark, cls)
    benchmark = wishes.benchmark
    wanted, about = [wishes], []
    if flags.rows and not flags.table:
        raise UserError("--rows needs --table, such as --table lora-2")
    if flags.table:
        wanted, about = _table_wishes(flags, argv, wishes)
    stack = flags.get("stack_seeds", False)
    if flags.plan and stack:
        raise UserError("--plan prints one command per run: leave --stack_seeds out")
    if flags.plan:
        check_wishes(wishes, here=False)
        with waiting("reading recipes"):
            from modules.experiments.dry_run import show_plan

        return show_plan(wanted, about, flags.results_dir, launch, flags.jobs)
    with waiting("reading recipes, data and backbone"):
        here = not (launch and launch.elsewhere)
        plan = merge([make_plan(each, resolve(each.variant), here=here) for each in wanted])
    plan.about += about
    code = execute(plan, flags.results_dir, benchmark, flags.force, flags.jobs, stack, launch)
    if flags.table and rank() == 0:
        show_paper_table(flags.results_dir, flags.table)
    return code


def _table_wishes(flags: Any, argv: list[str], wishes: Wishes) -> tuple[list[Wishes], list[str]]:
    """The wishes of a published table's rows, and lines about the rows that cannot be run."""
    from modules.experiments.published_runs import table_wishes

    given = [word.partition("=")[0] for word in argv if word.partition("=")[0] == "--variant"]
    given += [f"--{name}" for name in wishes.options]
    if wishes.budget is not None:
        given.append("--budget")
    if given:
        raise UserError(f"--table says which variants run, and how: leave {given[0]} out, or choose rows by --rows")
    return table_wishes(PUBLISHED, flags.table, flags.rows, wishes)


def execute(
    plan: Plan,
    results_dir: str,
    benchmark: Benchmark,
    force: bool = False,
    jobs: int | None = None,
    stack: bool = False,
    launch: Launch | None = None,
) -> int:
    """Do what is missing of a plan, each run in a worker process or seeds stacked, and show the table.

    Args:
        results_dir: where results are looked up and written.
        benchmark: whose table is shown.
        force: run again what is done.
        jobs: worker processes at once; None for one per GPU or core, or for as many as have the GPUs or cores of
            their ranks.
        stack: train the seeds of a task at once: a stack on each of the devices that Trainer options ask for.
        launch: jobs of a scheduler in place of workers; `jobs` is then how many run at once.

    Returns:
        The exit code.

    Raises:
        UserError: runs cannot be stacked, `jobs` is below 1, or `force` meets a run that another command is at.
    """
    from modules.runs.results import ResultStore

    trainer = plan.runs[0].trainer if plan.runs else {}
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    if stack:
        stacks(plan.runs)  # refuses before anything is done
    first = rank() == 0
    store = ResultStore(results_dir)
    if force and first:
        forget(plan.runs, store)
    # of several ranks the first alone removes results, and the others may have looked before
    missing = [run for run in plan.runs if force or not store.done(run.id)]
    done = len(plan.runs) - len(missing)
    if first:
        print("\n".join(plan.about), flush=True)
        if missing:
            with waiting("trying the method on the backbone's shapes"):
                trained = check_variants(missing, benchmark)
            print("\n".join([*settings_lines([*map(Settled.of, missing)], benchmark), *trained]), flush=True)
        finished = f", {done} done before" if done else ""
        print(f"{runs_text(len(plan.runs))}{finished}; results: {os.path.join(results_dir, 'runs')}", flush=True)
    groups = stacks(missing) if stack else [[run] for run in missing]
    agent = begin(missing)
    for run in (run for group in groups for run in group):
        run.write()  # every rank of a launcher: one that waited for the first to do so would come too early
    code = carry_out(groups, results_dir, launch, jobs, trainer, stack)
    if not first:
        return code
    ids = {run.id for run in plan.runs}
    code = max(code, show_table(results_dir, write=bool(missing), ids=ids, benchmark=benchmark))
    code = max(code, say_what_is_missing(plan.runs, results_dir))
    end(plan.runs, missing, benchmark, agent)
    return code
