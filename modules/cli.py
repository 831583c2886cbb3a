"""The command line: flags of the project, of the chosen variant and of Lightning's Trainer, in one parser."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import signal
import sys
import threading
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.benchmark import Benchmark
from modules.config import COMPILE
from modules.errors import UserError
from modules.glue import GLUE
from modules.plan import Plan, Wishes, make_plan, merge, stacks, takes_several
from modules.workers import default_jobs, run_workers
from variants.registry import BUILT_IN, names, outline, resolve
from variants.variant import VariantError

PUBLISHED = Path(__file__).resolve().parents[1] / "paper_repro" / "published"


def main(argv: list[str] | None = None, benchmark: Benchmark = GLUE) -> int:
    """Run a benchmark's command; the exit code: 0, 2 after a mistake of the user's, 1 after a failure."""
    argv = sys.argv[1:] if argv is None else argv
    return guarded(lambda: _main(argv, benchmark))


def guarded(command: Callable[[], int]) -> int:
    """Run a command; a mistake of the user's is one line on standard error and exit code 2."""

    def stop(*_: Any) -> typing.NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)  # what a scheduler sends: end as Ctrl-C does, workers included
    try:
        return command()
    except (UserError, VariantError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _main(argv: list[str], benchmark: Benchmark) -> int:
    if "-h" in argv or "--help" in argv:
        make_parser(outline(_variant_in(argv)), benchmark).print_help()
        return 0
    spec = _variant_in(argv)
    cls = resolve(spec)
    flags = make_parser(cls, benchmark).parse_args(argv)
    if flags.table_only:
        return show_table(flags.results_dir, write=True, benchmark=benchmark)
    options = {f.name: flags[f.name] for f in dataclasses.fields(cls) if flags[f.name] is not None}
    training = {name: flags[name] for name in benchmark.settings if flags[name] is not None}
    wishes = Wishes(
        variant=spec,
        options=options,
        preset=flags.preset,
        model=flags.model,
        data_dir=flags.data_dir,
        tasks=_names(flags.tasks),
        seeds=_seeds(flags.seeds),
        training=training,
        mnli_init=flags.get("mnli_init"),
        trainer=flags.trainer or {},
        results_dir=flags.results_dir,
        wandb=flags.wandb,
        compile=flags.compile,
        budget=None if flags.budget is None else str(flags.budget),
        benchmark=benchmark,
    )
    wanted, about = [wishes], []
    if flags.rows and not flags.table:
        raise UserError("--rows needs --table, such as --table lora-2")
    if flags.table:
        wanted, about = _table_wishes(flags, argv, wishes)
    stack = flags.get("stack_seeds", False)
    if flags.plan and stack:
        raise UserError("--plan prints one command per run: leave --stack_seeds out")
    if flags.plan:
        from modules.jobs import show_plan

        return show_plan(wanted, about, flags.results_dir)
    plan = merge([make_plan(each, resolve(each.variant)) for each in wanted])
    plan.about += about
    code = execute(plan, flags.results_dir, force=flags.force, jobs=flags.jobs, benchmark=benchmark, stack=stack)
    if flags.table and _first_process():
        show_paper_table(flags.results_dir, flags.table)
    return code


def _table_wishes(flags: Any, argv: list[str], wishes: Wishes) -> tuple[list[Wishes], list[str]]:
    """The wishes of a published table's rows, and lines about the rows that cannot be run."""
    from modules.jobs import table_wishes

    given = ["variant"] * any(word.partition("=")[0] == "--variant" for word in argv)
    given += [*wishes.options, *["budget"] * (wishes.budget is not None)]
    if given:
        raise UserError(f"--table says which variants run, and how: leave --{given[0]} out, or choose rows by --rows")
    return table_wishes(PUBLISHED, flags.table, flags.rows, wishes)


def make_parser(cls: type, benchmark: Benchmark = GLUE):
    """The parser of a benchmark's command with the options of one variant (its class, or its outline)."""
    from jsonargparse import ActionConfigFile, ArgumentParser

    class Parser(ArgumentParser):
        def error(self, message: str, ex: Exception | None = None) -> typing.NoReturn:
            raise UserError(_explain(message, self)) from ex

    parser = Parser(
        prog=benchmark.script,
        description=benchmark.description,
        epilog=benchmark.examples,
        formatter_class=_formatter(benchmark.script),
        allow_abbrev=False,
        default_env=False,
    )
    add = parser.add_argument
    add("--variant", type=str, default="lora", help=f"{', '.join(BUILT_IN)}, or package.module:Class (default: lora)")
    add("--config", action=ActionConfigFile, help="YAML file with any of these flags")
    add("--preset", type=str, default="auto", help=f"{', '.join(benchmark.presets)}, or a recipe file (default: auto)")
    add("--model", type=str | None, help="Hub id, folder, or embedded")
    add("--data_dir", type=str | None, help=f"{benchmark.data_help} (default: ${benchmark.data_env}, else the Hub)")
    add("--tasks", type=str | list[str] | None, help="comma list of tasks (default: all that the recipe knows)")
    add("--seeds", type=str | int | list[int] | None, help="comma list (default: the recipe's)")
    if "mnli" in benchmark.tasks:
        add("--mnli_init", type=bool | None, help="start MRPC, RTE and STS-B from the MNLI run (default: the recipe's)")
    add("--budget", type=str | int | float | None, help="trained adapter parameters, such as 0.3M: picks r, p, ...")
    add("--table", type=str | None, help="a published table, such as lora-2: runs its rows (paper_repro/published)")
    add("--rows", type=str | None, help="with --table: rows that have these words, such as 'roberta-base lora'")
    add(
        "--plan", type=bool, nargs="?", const=True, default=False, help="run nothing: print a command per run, and cost"
    )
    add("--force", type=bool, nargs="?", const=True, default=False, help="run again what is done")
    add(
        "--jobs",
        type=int | None,
        help="runs at once, each in a process of its own, spread over the GPUs (default: one for each GPU or core)",
    )
    add(
        "--stack_seeds",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="train the seeds of a task at once, as stacked adapters on one backbone: far less than a run each",
    )
    add("--table_only", type=bool, nargs="?", const=True, default=False, help="rebuild the table from the result files")
    add("--results_dir", type=str, default="results", help="where runs and tables are written (default: results)")
    add("--wandb", type=str, default="auto", help="online, offline, off, or auto: online if logged in, else offline")
    how = "; ".join(f"{name}: {text}" for name, text in COMPILE.items())
    add("--compile", type=str, default="auto", help=f"{how} (default: auto)")
    add("--trainer", type=dict[str, Any] | None, help="any option of lightning.Trainer, as --trainer.devices 2")
    group = parser.add_argument_group("training (default: the recipe's)")
    for name, setting in benchmark.settings.items():
        group.add_argument(f"--{name}", type=setting.kind | None, help=setting.help)
    _add_variant(parser, cls)
    return parser


def _add_variant(parser, cls: type) -> None:
    described = dict(re.findall(r"^\s+(\w+): (.*?)(?=\n\s+\w+: |\Z)", _args_section(cls), re.M | re.S))
    if not dataclasses.fields(cls):
        return
    group = parser.add_argument_group(f"options of {cls.name or cls.__name__}")
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        default = f.default if f.default is not dataclasses.MISSING else "{}"
        text = " ".join(described.get(f.name, "").split()).rstrip(".")
        group.add_argument(f"--{f.name}", type=hints[f.name] | None, help=f"{text} (default: {default})".strip())


def _args_section(cls: type) -> str:
    """The ``Args:`` parts of the docstrings of a class and its bases."""
    parts = [(base.__doc__ or "").partition("Args:")[2] for base in reversed(cls.__mro__)]
    return "\n".join(part.split("\n\n")[0] for part in parts)


def _formatter(script: str) -> type:
    import argparse

    from jsonargparse import DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Keeps the examples' lines, and leaves jsonargparse's notes about types and defaults out."""

        def _get_help_string(self, action: argparse.Action) -> str | None:
            return action.help

        def _format_usage(self, usage, actions, groups, prefix) -> str:
            return f"usage: {script} [--variant NAME] [options of the variant] [--preset ...] [--seeds ...]\n\n"

    return Formatter


def _variant_in(argv: list[str]) -> str:
    """The variant's name, looked up before there is a parser: in the flags, then in --config files."""
    found, configs = None, []
    for position, word in enumerate(argv):
        name, equals, value = word.partition("=")
        value = value if equals else (argv[position + 1] if position + 1 < len(argv) else "")
        if name == "--variant":
            found = value
        elif name == "--config":
            configs.append(value)
    if found is None:
        for path in configs:
            found = _yaml(path).get("variant", found)
    if found == "":
        raise UserError(f"--variant needs a name: {', '.join(names())}, or package.module:Class")
    return found or "lora"


def _yaml(path: str) -> dict[str, Any]:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"--config {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold flags and values, such as 'variant: lora'")
    return content


def _explain(message: str, parser) -> str:
    """jsonargparse's message, in the user's words."""
    message = " ".join(message.split())
    unknown = re.search(
        r"[Uu]nrecognized arguments?: -+([\w.]+)|(?:Key|option) [\"'`]?(\w+)[\"'`]? is not expected", message
    )
    value = re.search(r'Parser key "([\w.]+)":.*Given value: (.*)$', message)
    if value:
        kinds = re.findall(r"Expected an? <class '(\w+)'>", message)
        expected = " or ".join(dict.fromkeys(k for k in kinds if k != "NoneType")) or "another kind of value"
        choices = re.search(r"Literal\[([^\]]*)\]", message)
        return f"--{value[1]} must be {'one of ' + choices[1] if choices else expected}, not {value[2]!r}"
    if not unknown:
        return message
    name = unknown[1] or unknown[2]
    known = [a.dest for a in parser._actions]
    owners = [other for other in BUILT_IN if name in {f.name for f in dataclasses.fields(outline(other))}]
    variant = next((g.title for g in parser._action_groups if (g.title or "").startswith("options of ")), "")
    if owners:
        mine = variant.removeprefix("options of ") or "this variant"
        return f"--{name} is an option of {', '.join(owners)}, not of {mine}"
    near = difflib.get_close_matches(name, known, n=3)
    return f"unknown option --{name}" + (f"; did you mean --{', --'.join(near)}?" if near else "; --help lists them")


def _names(value: str | list[str] | None) -> list[str]:
    if value is None or value == "all":
        return []
    parts = value.split(",") if isinstance(value, str) else value
    return [part.strip().lower().replace("-", "") for part in parts if part.strip()]


def _seeds(value: str | int | list[int] | None) -> list[int]:
    parts = str(value).split(",") if isinstance(value, (str, int)) else value or []
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise UserError(f"--seeds must be whole numbers such as 0,1,2, not {value!r}") from None


def execute(
    plan: Plan,
    results_dir: str,
    force: bool = False,
    jobs: int | None = None,
    benchmark: Benchmark = GLUE,
    stack: bool = False,
) -> int:
    """Do what is missing of a plan, each run in a worker process or seeds stacked, and show the table."""
    from modules.results import ResultStore

    jobs = default_jobs() if jobs is None else jobs
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    if stack:
        stacks(plan.runs)  # refuses before anything is done
    first = _first_process()
    store = ResultStore(results_dir)
    if force and first:
        for run in plan.runs:
            store.path(run.id).unlink(missing_ok=True)
            for checkpoint in run.folder.glob("*.ckpt"):  # without it nothing of an earlier try is taken up
                checkpoint.unlink(missing_ok=True)
    missing = [run for run in plan.runs if not store.done(run.id)]
    done = len(plan.runs) - len(missing)
    if first:
        print("\n".join(plan.about))
        finished = f", {done} done before" if done else ""
        print(f"{len(plan.runs)} runs{finished}; results: {os.path.join(results_dir, 'runs')}", flush=True)
        for run in missing:
            run.write()
    groups = stacks(missing) if stack else [[run] for run in missing]
    words = ["+".join(run.id for run in group) for group in groups]
    code = run_workers(words, results_dir, jobs, one_by_one=_several_processes(plan))
    if not first:
        return code
    ids = {run.id for run in plan.runs}
    return max(code, show_table(results_dir, write=bool(missing), ids=ids, benchmark=benchmark))


def _first_process() -> bool:
    """Whether this is the first of the processes that a launcher started, or the only one."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _several_processes(plan: Plan) -> bool:
    """Whether a run itself takes several processes: then each run has a command of its own."""
    return takes_several(plan.runs[0].trainer if plan.runs else {})


def show_table(results_dir: str, write: bool = True, ids: set[str] | None = None, benchmark: Benchmark = GLUE) -> int:
    """Print the table of the results under ``results_dir`` and say where it is."""
    from modules.published import load_published
    from modules.render import to_text
    from modules.results import ResultStore
    from modules.tables import build, write_tables

    results = [result for result in ResultStore(results_dir).all() if result.benchmark == benchmark.name]
    if not results:
        print(f"no results under {results_dir}", file=sys.stderr)
        return 1
    shown = [result for result in results if ids is None or result.id in ids]
    published = load_published(PUBLISHED, benchmark.name)
    print(to_text(build(shown, published, benchmark)))
    if write:
        print("written:", *write_tables(os.path.join(results_dir, "tables"), results, published, benchmark))
    return 0


def show_paper_table(results_dir: str, table: str) -> None:
    """Write a published table with the runs under ``results_dir`` beside it; say how much of it is there."""
    from modules.atomic import write_atomic
    from modules.paper_rows import all_sections
    from modules.paper_tables import paper_table
    from modules.results import ResultStore

    texts = paper_table(PUBLISHED, table, all_sections(PUBLISHED, ResultStore(results_dir).all()))
    folder = Path(results_dir) / "tables" / "papers"
    for name, text in texts.items():
        write_atomic(folder / name, text)
    print("the paper's table with these runs in it:", *(folder / name for name in texts))
