"""`--export wandb-sweep`: the search of a row as a sweep of Weights & Biases, whose agents call the ordinary command.

A trial of an agent is the same run, under the same id, as compare.py's of that point: what agents have done in the
tuning folder is done for compare.py too. Both try all points of a grid; other searches choose points of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.comparison.comparison import Comparison, Row
from modules.comparison.space import Dimension, text
from modules.paths import PROJECT
from modules.runs.trainer_options import truncates
from variants.atomic import write_atomic
from variants.errors import UserError

METHODS = {"grid": "grid", "random": "random", "optuna": "bayes"}
"""W&B's search for each of ours."""


def export(comparison: Comparison, rows: list[Row], path: Path | None) -> Path:
    """Write the sweep of the one row that searches, and its recipe; the file.

    Args:
        path: of the file; by default in the results folder.

    Raises:
        UserError: not one row searches, it is scored by several tasks, or a value is none that a command line takes.
    """
    searched = [row for row in rows if row.space]
    if len(searched) != 1:
        names = ", ".join(row.name for row in searched) or "none"
        raise UserError(
            f"{comparison.path}: a W&B sweep is of one row, and these search: {names}; choose one by --variants"
        )
    (row,) = searched
    path = path or comparison.results_dir / f"wandb-sweep-{row.name}.yaml"
    import yaml

    head = (
        f"# {row.name} of {comparison.path}, for Weights & Biases:\n"
        f"#   wandb sweep --project lora-variants {path}      # prints the sweep's id\n"
        "#   wandb agent ENTITY/lora-variants/ID              # on as many machines as there are\n"
        f"# Runs lie in {comparison.tuning}, where compare.py finds them.\n"
    )
    write_atomic(path, head + yaml.safe_dump(sweep(comparison, row), sort_keys=False, width=1000))
    return path


def sweep(comparison: Comparison, row: Row) -> dict[str, Any]:
    """The sweep's configuration (docs.wandb.ai/guides/sweeps/define-sweep-configuration)."""
    rule, wishes = comparison.content.tune, comparison.wishes
    if len(rule.tasks) > 1:
        raise UserError(
            f"{comparison.path}: tune: an agent's score is that of one run, and tasks names {len(rule.tasks)}: name one"
        )
    if len(rule.trained) > 1:
        raise UserError(f"{comparison.path}: tune: an agent's score is that of one run: name one seed")
    if rule.metric not in (None, "loss"):
        raise UserError(f"{comparison.path}: tune: a W&B sweep compares best/score or the loss, not {rule.metric}")
    for each in (each for each in row.space if each.place == "trainer"):
        if any(truncates({each.name: value}) for value in each.examples):
            raise UserError(
                f"{comparison.path}: {each.key}: some of its values truncate the run, which then has no score, and W&B "
                "cannot leave such runs out: leave them out of the list"
            )
    example = {each.key: each.examples[0] for each in row.space}
    recipe = comparison.tuning / "recipes" / f"{row.name}-sweep.yaml"
    write_atomic(recipe, comparison.recipe(row.at(example), tuning=True))
    words = ["--variant", row.variant, "--preset", str(recipe.absolute()), "--model", str(wishes.model)]
    for name, value in comparison.benchmark.given.items():
        words += [f"--{name}", str(value)]
    if wishes.data_dir:
        words += ["--data_dir", str(Path(wishes.data_dir).absolute())]
    words += ["--tasks", rule.tasks[0], "--seeds", str(rule.trained[0])]
    words += ["--results_dir", str(comparison.tuning.absolute())]
    trainer = comparison.content.for_all | row.trainer | (rule.trainer or {})
    for name, value in trainer.items():
        words += [f"--trainer.{name}", text(value)]
    if rule.search != "grid":
        words += ["--force"]  # W&B may choose a point again, and wants a score then too
    goal = "minimize" if rule.metric == "loss" else "maximize"
    content = {
        "name": f"{row.name} {rule.tasks[0]}",
        "method": METHODS[rule.search],
        "metric": {"name": "dev/loss" if rule.metric == "loss" else "best/score", "goal": goal},
        "parameters": {each.key: _parameter(each, comparison.path) for each in row.space},
        "program": str(PROJECT / "paper_repro" / comparison.benchmark.script),
        "command": ["${env}", "${interpreter}", "${program}", *words, "${args}"],
    }
    return content | ({"run_cap": rule.trials} if rule.trials else {})


def _parameter(each: Dimension, path: Path) -> dict[str, Any]:
    if each.values:
        if odd := [value for value in each.values if not isinstance(value, (bool, int, float, str))]:
            raise UserError(f"{path}: {each.key}: a W&B sweep has numbers and words as values, not {odd[0]!r}")
        return {"values": list(each.values)}
    kind = "log_uniform_values" if each.log else "uniform"
    if each.whole or each.step:
        kind = f"q_{kind}" if each.step or each.log else "int_uniform"
    step = {"q": each.step or 1} if kind.startswith("q_") else {}
    return {"distribution": kind, "min": each.low, "max": each.high, **step}
