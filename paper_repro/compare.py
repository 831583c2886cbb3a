"""Compare variants on equal terms: for each the best setting that a search finds, then seeds, then the table.

    python paper_repro/compare.py configs/compare/sweep.yaml --model embedded   # a search: minutes on a CPU
    python paper_repro/compare.py configs/compare/minilm.yaml --model FOLDER --data_dir GLUE_TSVS
    python paper_repro/compare.py configs/compare/e2e.yaml --model FOLDER --data_dir E2E_CSVS --jobs 8
    python paper_repro/compare.py FILE --model FOLDER --budget 18K,74K     # every variant at two equal sizes
    python paper_repro/compare.py FILE --model FOLDER --tasks rte,mrpc     # a part of the work
    python paper_repro/compare.py FILE --model FOLDER --plan               # what is missing, and its steps
    python paper_repro/compare.py FILE --model FOLDER --export wandb-sweep # the search as a sweep of W&B

Every list among a row's settings (options, learning rate, batch size, options of the Trainer) is searched: by a grid,
at random or by Optuna. The setting of a row is the one with the best mean dev figure over the tuning tasks and seeds:
seeds that the comparison itself does not use, or rows that it does not score (select: split). Tuning runs lie under
RESULTS_DIR/tuning, the chosen recipes under RESULTS_DIR/recipes, the runs of the comparison and its tables under
RESULTS_DIR. What is done is not done again: a trial with a run's own seed and settings is that run, one that only
leaves the test set alone is its training, and several commands and machines may share a folder. configs/README.md
explains the file. With several GPUs the --jobs runs are spread over them.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.command_line import Parser, guarded, place
from modules.comparison.comparison import Comparison, Row
from modules.comparison.file import only, read
from modules.experiments.dashboards import end
from modules.experiments.wishes import Wishes
from modules.launch.jobs.launch import Launch
from modules.launch.jobs.slurm import options_in
from modules.reports.show import show_table
from modules.runs.tracking import ARTIFACTS_HELP, FLAGS
from variants.errors import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = Parser(__doc__)
    parser.add_argument("file", type=place, help="YAML: tasks, seeds, tune, common and, by row, options and lr")
    parser.add_argument("--model", required=True, help="Hub id, folder, or embedded")
    parser.add_argument("--data_dir", help="folder of the benchmark's data (default: $GLUE_DIR or $E2E_DIR, else Hub)")
    parser.add_argument("--variants", help="comma list of the file's rows (default: all)")
    parser.add_argument("--tasks", help="comma list of the file's tasks (default: all)")
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        help="comma list of the FILE.py:CLASS that the file may name: a file brings no code itself",
    )
    parser.add_argument("--budget", help="trained adapter parameters, such as 0.3M, or a comma list: picks r, p, ...")
    parser.add_argument("--jobs", type=int, help="runs at once, over all GPUs (default: one for each GPU or core)")
    parser.add_argument("--launch", help="carry the runs out as jobs: local or slurm, --slurm.partition X and such")
    parser.add_argument(
        "--stack_seeds",
        action="store_true",
        help="train the seeds of a row and task at once where its variant can be stacked",
    )
    parser.add_argument(
        "--stack_rates",
        type=int,
        default=0,
        metavar="N",
        help="train the learning rates of a search at once too, seeds and all, at most N runs in a stack: less time "
        "than one after the other, for the memory of all their batches",
    )
    parser.add_argument("--plan", action="store_true", help="say what is missing; nothing trains")
    parser.add_argument(
        "--export",
        nargs="+",
        metavar=("wandb-sweep", "FILE"),
        help="write the search of a row as a sweep of Weights & Biases; nothing trains",
    )
    parser.add_argument("--results_dir", type=place, default=Path("results/compare"))
    for name, text in FLAGS.items():
        parser.add_argument(f"--{name}", default="auto" if name == "wandb" else getattr(Wishes, name), help=text)
    parser.add_argument("--wandb_artifacts", action="store_true", help=ARTIFACTS_HELP)
    parser.add_argument(
        "--reference", action="store_true", help="switch all acceleration off: plain PyTorch, for checking results"
    )
    words, slurm = options_in(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(words)
    options.slurm = slurm
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = parse(argv)
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {options.jobs}")
    launch = Launch.of(options.launch, options.slurm, submits=not options.plan)
    code = frozenset(listed(",".join(options.code)))
    content = only(read(options.file, code), listed(options.tasks), options.file)
    wishes = Wishes(
        benchmark=content.own,
        model=options.model,
        data_dir=options.data_dir,
        results_dir=str(options.results_dir),
        **{name: getattr(options, name) for name in (*FLAGS, "wandb_artifacts")},
        compile=os.environ.get("LORA_VARIANTS_COMPILE", "auto"),
        reference=options.reference,
    )
    if options.stack_rates < 0:
        raise UserError(f"--stack_rates must be at least 1, not {options.stack_rates}: the runs of a stack")
    stack = options.stack_seeds or options.stack_rates > 0, options.stack_rates
    comparison = Comparison(options.file, content, wishes, options.jobs, *stack, code, launch)
    rows = comparison.rows(listed(options.variants), listed(options.budget))
    if options.export:
        return _export(comparison, rows, options.export)

    from modules.comparison import search_report, tuning

    if options.plan:
        return tuning.show_plan(comparison, rows)
    trials, code = tuning.search(comparison, rows)
    search_report.show(comparison, rows, trials)
    chosen = tuning.choose(comparison, rows, trials)
    code = code if len(chosen) == len(rows) else code or 1
    if code == 130 or not chosen:
        return code
    if said := search_report.chosen_words(chosen):
        print(f"chosen: {said}", flush=True)
    runs = [run for row in rows if row.name in chosen and row.seeds for run in comparison.runs(row, chosen[row.name])]
    comparison.leave_out(runs, [run for own in trials.values() for each in own for run in each.runs])
    if not runs:
        return code  # a search alone
    code = max(code, comparison.carry_out(runs, options.results_dir))
    code = max(code, show_table(str(options.results_dir), benchmark=comparison.benchmark, differences=True))
    end(runs, [run for run in runs if run.id in comparison.begun], comparison.benchmark)
    return code


def _export(comparison: Comparison, rows: list[Row], words: list[str]) -> int:
    kind, *path = words
    if kind != "wandb-sweep" or len(path) > 1:
        raise UserError(f"--export takes wandb-sweep, and after it the file to write, not {' '.join(words)!r}")
    from modules.comparison.wandb_sweep import export

    written = export(comparison, rows, Path(path[0]).expanduser() if path else None)
    print(f"written: {written}\nwandb sweep --project lora-variants {written}")
    return 0


def listed(text: str | None) -> list[str]:
    """The parts of a comma list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(guarded(main))
