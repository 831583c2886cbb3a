"""The flags of a benchmark's command: the project's, the chosen variant's and Lightning's, in one parser."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modules.benchmarks.base import Benchmark
from modules.command_line.mistakes import explain
from modules.runs.config import CHECKPOINTING, COMPILE
from modules.runs.tracking import ARTIFACTS_HELP, FLAGS
from variants.command_line import HelpFormatter, ShowVersion, canonical
from variants.errors import UserError
from variants.outside.options import add_options, opened
from variants.registry import BUILT_IN, names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def make_parser(cls: type, benchmark: Benchmark) -> ArgumentParser:
    """The parser of a benchmark's command with the options of one variant (its class, or its outline)."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
            raise UserError(explain(message, self)) from ex

        def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
            words = canonical(sys.argv[1:] if args is None else args)
            return super().parse_args(opened(words, cls), *rest, **options)

    parser = Parser(
        prog=benchmark.script,
        description=benchmark.description,
        epilog=benchmark.examples.replace("``", ""),
        formatter_class=_formatter(benchmark.script),
        allow_abbrev=False,
        default_env=False,
    )
    add = parser.add_argument
    add("--variant", type=str, default="lora", help=f"{', '.join(BUILT_IN)}, or package.module:Class (default: lora)")
    add("--config", type=str | None, help="YAML file with any of these flags")
    add("--preset", type=str, default="auto", help=f"{', '.join(benchmark.presets)}, or a recipe file (default: auto)")
    add("--model", type=str | None, help="Hub id, folder, or embedded")
    for name, text in benchmark.data_flags.items():
        add(f"--{name}", type=str | int | float | None, metavar=name.upper(), help=text)
    if benchmark.data_help:
        add("--data_dir", type=place, help=f"{benchmark.data_help} (default: ${benchmark.data_env}, else the Hub)")
    words = f"comma list of {', '.join(benchmark.tasks)} (default: all that the recipe knows)"
    add("--tasks", type=str, help=words if benchmark.tasks else argparse.SUPPRESS)
    add("--seeds", type=str, help="comma list such as 0,1,2 or 0-4 (default: the recipe's)")
    if benchmark.first_task:
        first = benchmark.tasks[benchmark.first_task].title
        text = f"start {benchmark.later_words} from the {first} run (default: the recipe's)"
        add("--mnli_init", type=bool | None, metavar="{true,false}", help=text)
    add("--budget", type=str | int | float | None, help="trained adapter parameters, such as 0.3M: picks r, p, ...")
    add("--table", type=str | None, help="a published table, such as lora-2: runs its rows (paper_repro/published)")
    add("--rows", type=str | None, help="with --table: rows that have these words, such as 'roberta-base lora'")
    add("--version", action=ShowVersion)
    switch = {"type": bool, "nargs": "?", "const": True, "default": False}
    add("--plan", **switch, help="run nothing: print a command per run, and cost")
    add("--force", **switch, help="run again what is done")
    add(
        "--jobs",
        type=int | None,
        help="runs at once, each in processes of its own, spread over the GPUs (default: one for each GPU or core, or "
        "for as many of them as --trainer.devices says)",
    )
    add(
        "--stack_seeds",
        **switch,
        help="train the seeds of a task at once, as stacked adapters on one backbone: far less than a run each; with "
        "--trainer.devices N a stack on each of N devices",
    )
    add(
        "--launch",
        type=str | None,
        metavar="{local,slurm}",
        help="carry the runs out as jobs, by submitit: local or slurm (docs/clusters.md)",
    )
    add("--slurm", type=dict[str, str] | None, help="options of sbatch, as --slurm.partition X --slurm.time 2:00:00")
    add("--table_only", **switch, help="rebuild the table from the result files")
    add("--results_dir", type=place, default="results", help="where runs and tables are written (default: results)")
    for name, text in FLAGS.items():
        add(f"--{name}", type=str | None, help=text)
    add("--wandb_artifacts", **switch, help=ARTIFACTS_HELP)
    how = "; ".join(f"{name}: {text}" for name, text in COMPILE.items())
    add("--compile", type=str, default="auto", metavar="{" + ",".join(COMPILE) + "}", help=f"{how} (default: auto)")
    how = "; ".join(f"{name}: {text}" for name, text in CHECKPOINTING.items())
    words = "{" + ",".join(CHECKPOINTING) + "}"
    add("--gradient_checkpointing", type=str, default="auto", metavar=words, help=f"{how} (default: auto)")
    add("--activation_offload", **switch, help="keep what the backward pass needs in the host's memory; no CUDA graphs")
    add("--reference", **switch, help="switch all acceleration off: plain PyTorch, for checking results")
    add("--trainer", type=dict[str, Any] | None, help="any option of lightning.Trainer, as --trainer.devices 2")
    group = parser.add_argument_group("training (first the recipe's value, then the default)")
    for name, setting in benchmark.settings.flags().items():
        words = "{" + ",".join(setting.choices) + "}" if setting.choices else None
        group.add_argument(f"--{name}", type=setting.kind | None, metavar=words, help=setting.described)
    add_options(parser, cls, taken={action.dest for action in parser._actions})
    return parser


def place(text: str) -> str:
    """The name of a file or folder, with a person's ~ written out."""
    return os.path.expanduser(text)


def _formatter(script: str) -> type:
    from jsonargparse import DefaultHelpFormatter

    class Formatter(HelpFormatter, DefaultHelpFormatter):
        """Leaves jsonargparse's notes about types and defaults out."""

        def _get_help_string(self, action: Any) -> str | None:
            return action.help and action.help.replace("%%", "%")  # argparse would take one for two

        def _format_usage(self, usage, actions, groups, prefix) -> str:
            return f"usage: {script} [--variant NAME] [options of the variant] [--preset ...] [--seeds ...]\n\n"

    return Formatter


def taken(argv: list[str], flag: str) -> tuple[list[str], list[str]]:
    """(the words without a flag, its values): for what decides which flags there are."""
    rest, values, words = [], [], iter(canonical(argv))
    for word in words:
        name, equals, value = word.partition("=")
        if name != f"--{flag}":
            rest.append(word)
        elif not (value := value if equals else next(words, "")) or value.startswith("--"):
            raise UserError(f"--{flag} needs a value")
        else:
            values.append(value)
    return rest, values


def variant_in(argv: list[str]) -> str:
    """The variant's name, looked up before there is a parser. Raises UserError where --variant has none."""
    found = "lora"
    argv = canonical(argv)
    for position, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == "--variant":
            found = value if equals else (argv[position + 1] if position + 1 < len(argv) else "")
    if not found:
        raise UserError(f"--variant needs a name: {', '.join(names())}, or package.module:Class")
    return found
