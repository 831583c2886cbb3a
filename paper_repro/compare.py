"""Compare variants on equal terms: a learning rate for each from a stated grid, then seeds, then the table.

    python paper_repro/compare.py configs/compare/minilm.yaml --model FOLDER --data_dir GLUE_TSVS
    python paper_repro/compare.py configs/compare/e2e.yaml --model FOLDER --data_dir E2E_CSVS --jobs 8
    python paper_repro/compare.py configs/compare/rank-study.yaml --model FOLDER --data_dir GLUE_TSVS
    python paper_repro/compare.py FILE --model FOLDER --budget 18K,74K     # every variant at two equal sizes
    python paper_repro/compare.py FILE --model FOLDER --plan               # what is missing, and its steps

The learning rate of a row is the one of its grid with the best mean dev figure over the tuning tasks, with a seed that
the comparison itself does not use; a grid of one value needs no tuning. Tuning runs lie under RESULTS_DIR/tuning, the
chosen recipes under RESULTS_DIR/recipes, the runs of the comparison and its table under RESULTS_DIR. What is done is
not done again. configs/README.md explains the comparison file. With several GPUs the --jobs runs are spread over them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modules.benchmarks.base import benchmark
from modules.command_line import guarded, place
from modules.experiments.comparison import Comparison
from modules.experiments.comparison_file import read
from modules.experiments.dashboards import end
from modules.experiments.wishes import Wishes
from modules.launch.jobs.launch import Launch
from modules.launch.jobs.slurm import options_in
from modules.reports.show import show_table
from modules.runs.tracking import ARTIFACTS_HELP, FLAGS
from variants.errors import UserError


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("file", type=place, help="YAML: common, tasks, tune, seeds and, by row, options and lr grid")
    parser.add_argument("--model", required=True, help="Hub id, folder, or embedded")
    parser.add_argument("--data_dir", help="folder of the benchmark's data (default: $GLUE_DIR or $E2E_DIR, else Hub)")
    parser.add_argument("--variants", help="comma list of the file's rows (default: all)")
    parser.add_argument(
        "--code", help="comma list of the FILE.py:CLASS that the file may name: a file brings no code itself"
    )
    parser.add_argument("--budget", help="trained adapter parameters, such as 0.3M, or a comma list: picks r, p, ...")
    parser.add_argument("--jobs", type=int, help="runs at once, over all GPUs (default: one for each GPU or core)")
    parser.add_argument("--launch", help="carry the runs out as jobs: local or slurm, --slurm.partition X and such")
    parser.add_argument(
        "--stack_seeds",
        action="store_true",
        help="train the seeds of a row and task at once where its variant can be stacked",
    )
    parser.add_argument("--plan", action="store_true", help="say what is missing; nothing trains")
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
    content = read(options.file)
    wishes = Wishes(
        benchmark=benchmark(content.benchmark),
        model=options.model,
        data_dir=options.data_dir,
        results_dir=str(options.results_dir),
        **{name: getattr(options, name) for name in (*FLAGS, "wandb_artifacts")},
        compile=os.environ.get("LORA_VARIANTS_COMPILE", "auto"),
        reference=options.reference,
    )
    code = frozenset(listed(options.code))
    comparison = Comparison(options.file, content, wishes, options.jobs, options.stack_seeds, code, launch)
    rows = comparison.rows(listed(options.variants), listed(options.budget))
    if options.plan:
        return comparison.show_plan(rows)
    chosen, code = comparison.tune(rows)
    if code == 130 or not chosen:
        return code
    print(f"learning rates: {', '.join(f'{name} {lr:g}' for name, lr in chosen.items())}", flush=True)
    runs = [run for row in rows if row.name in chosen for run in comparison.runs(row, chosen[row.name])]
    code = max(code, comparison.carry_out(runs, options.results_dir))
    code = max(code, show_table(str(options.results_dir), benchmark=comparison.benchmark))
    end(runs, runs, comparison.benchmark)
    return code


def listed(text: str | None) -> list[str]:
    """The parts of a comma list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(guarded(main))
