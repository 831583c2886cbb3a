"""Train a variant on your own data, or on a benchmark of yours.

    python paper_repro/train.py --data reviews.csv --text review --label stars --variant lora --r 8
    python paper_repro/train.py --benchmark my_file.py:MyBenchmark

``--help`` lists every flag; ``--benchmark NAME --help`` those of another benchmark. docs/data.md explains the data.
"""

from __future__ import annotations

import paper_repro  # isort: skip  # noqa: F401  (first: it finds the project's own packages)

import sys
from collections.abc import Sequence

from modules.benchmarks.base import benchmark
from modules.command_line import guarded
from modules.experiments import command
from modules.experiments.config_files import expanded
from modules.experiments.flags import taken
from variants.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return guarded(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    words, names = taken(expanded(argv), "benchmark")
    own = benchmark(names[-1] if names else "custom")
    if names and own.name != "custom" and (data := taken(words, "data")[1]):
        raise UserError(f"--data {data[0]} is own data and --benchmark {names[0]} has its own: leave one of them out")
    return command.carry_out_flags(words, own)


if __name__ == "__main__":
    sys.exit(main())
