"""Compare variants on equal terms: a learning rate for each from a stated grid, then seeds, then the table.

    python paper_repro/compare.py configs/compare/minilm.yaml --model FOLDER --data_dir GLUE_TSVS

The learning rate of a variant is the one of its grid with the best mean dev metric over the tuning tasks, with a seed
that the comparison itself does not use. Tuning runs lie under RESULTS_DIR/tuning, the chosen recipe in
RESULTS_DIR/recipe.yaml, the runs of the comparison and its table under RESULTS_DIR. What is done is not done again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from modules.atomic import write_atomic
from modules.budget import line, pick
from modules.cli import guarded, run_workers, show_table
from modules.errors import UserError
from modules.glue import GLUE
from modules.plan import Wishes, build_variant, make_plan
from modules.results import ResultStore
from variants.registry import resolve


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("plan", type=Path, help="YAML: common, tasks, tune, seeds and, by variant, options and lr grid")
    parser.add_argument("--model", required=True, help="Hub id, folder, or embedded")
    parser.add_argument("--data_dir", help="folder of the official GLUE TSV files")
    parser.add_argument("--variants", help="comma list (default: all of the plan)")
    parser.add_argument("--budget", help="trained adapter parameters, such as 0.3M: picks r, p, ... of each variant")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in a process of its own")
    parser.add_argument("--results_dir", type=Path, default=Path("results/compare"))
    parser.add_argument("--wandb", default="off", help="online, offline, off or auto (default: off)")
    return parser.parse_args()


def main() -> int:
    options = parse()
    plan = read(options.plan)
    variants = options.variants.split(",") if options.variants else list(plan["variants"])
    if unknown := [name for name in variants if name not in plan["variants"]]:
        raise UserError(f"{options.plan} has no variant {unknown[0]!r}; it has {', '.join(plan['variants'])}")
    if options.budget:
        plan["variants"] = {name: within_budget(plan, name, options) for name in variants}
    chosen, code = tune(plan, variants, options)
    if code:
        return code
    recipe = options.results_dir / "recipe.yaml"
    write_atomic(recipe, as_recipe(plan, chosen, options))
    print(f"learning rates: {', '.join(f'{name} {lr:g}' for name, lr in chosen.items())}   ({recipe})", flush=True)
    runs = [
        run
        for name in variants
        for run in planned(plan, options, name, str(recipe), plan["seeds"], options.results_dir, list(plan["tasks"]))
    ]
    code = carry_out(sorted(runs, key=lambda run: run.seed), options.results_dir, options.jobs)
    return max(code, show_table(str(options.results_dir)))


def read(path: Path) -> dict[str, Any]:
    """The plan, with its keys checked."""
    import yaml

    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    for key in ("common", "tasks", "tune", "seeds", "variants"):
        if key not in (plan or {}):
            raise UserError(f"{path} lacks {key!r}: see configs/compare for an example")
    return plan


def within_budget(plan: dict[str, Any], variant: str, options: argparse.Namespace) -> dict[str, Any]:
    """The plan's entry of a variant with the size that --budget picks; head and full have none and stay as they are."""
    entry = plan["variants"][variant]
    if not resolve(variant).size:
        print(f"budget: {variant} has no size that a budget could set, and stays as it is", flush=True)
        return entry
    from modules.backbones import resolve as folder_of

    configured = build_variant(resolve(variant), entry.get("options", {}))
    sizes, budget = pick(folder_of(options.model)[2], GLUE.auto_class, configured, options.budget)
    print(line(variant, sizes, budget), flush=True)
    return entry | {"options": entry.get("options", {}) | sizes, "budget": budget}


def tune(plan: dict[str, Any], variants: list[str], options: argparse.Namespace) -> tuple[dict[str, float], int]:
    """(learning rate of each variant, exit code): the grid's best by mean dev metric over the tuning tasks."""
    folder, rule = options.results_dir / "tuning", plan["tune"]
    runs = {}
    for name in variants:
        for lr in plan["variants"][name]["lr"]:
            recipe = folder / f"{name}-{lr:g}.yaml"
            write_atomic(recipe, as_recipe(plan, {name: lr}, options, rule.get("epochs")))
            runs[name, lr] = planned(plan, options, name, str(recipe), [rule["seed"]], folder, rule["tasks"])
    code = carry_out([run for group in runs.values() for run in group], folder, options.jobs)
    store = ResultStore(folder)
    means: dict[tuple[str, float], float] = {}
    for key, group in runs.items():
        results = [store.read(run.id) for run in group]
        if all(results):
            means[key] = fmean(result.best[result.metric] for result in results)
            print(f"tuning: {key[0]} lr {key[1]:g}: {100 * means[key]:.2f}", flush=True)
    chosen = {
        name: max((key for key in means if key[0] == name), key=means.get)[1]
        for name in variants
        if any(key[0] == name for key in means)
    }
    if lost := [name for name in variants if name not in chosen]:
        raise UserError(f"no tuning run of {lost[0]} finished; see the messages above")
    return chosen, code


def planned(
    plan: dict[str, Any],
    options: argparse.Namespace,
    variant: str,
    recipe: str,
    seeds: list[int],
    folder: Path,
    tasks: list[str],
):
    """The runs of one variant by one recipe file."""
    wishes = Wishes(
        variant=variant,
        preset=recipe,
        model=options.model,
        data_dir=options.data_dir,
        tasks=tasks,
        seeds=seeds,
        results_dir=str(folder),
        wandb=options.wandb,
    )
    runs = make_plan(wishes, resolve(variant)).runs
    for run in runs:
        run.budget = plan["variants"][variant].get("budget")  # what picked the size that the recipe now holds
    return runs


def carry_out(runs: list, folder: Path, jobs: int) -> int:
    """Do what is missing of ``runs``; the exit code."""
    store = ResultStore(folder)
    missing = [run for run in runs if not store.done(run.id)]
    for run in missing:
        run.write()
    print(f"{folder}: {len(runs)} runs, {len(runs) - len(missing)} done before", flush=True)
    return run_workers([run.id for run in missing], str(folder), jobs)


def as_recipe(plan: dict[str, Any], lrs: dict[str, float], options: argparse.Namespace, epochs: Any = None) -> str:
    """A recipe file (configs/README.md) with the chosen learning rates; ``epochs`` shortens every task."""
    import yaml

    tasks = {name: dict(values or {}) for name, values in plan["tasks"].items()}
    if epochs:
        tasks = {name: values | {"epochs": epochs} for name, values in tasks.items()}
    variants = {}
    for name, lr in lrs.items():
        entry = plan["variants"][name]
        common = {**entry.get("common", {}), "lr": float(lr)}
        variants[name] = {"options": entry.get("options", {}), "common": common, "tasks": tasks}
    content = {
        "backbone": str(options.model),
        "protocol": "tuned",
        "source": "ours",
        "remarks": [f"learning rates picked by {options.plan}"],
        "seeds": plan["seeds"],
        "common": plan["common"],
        "variants": variants,
    }
    return yaml.safe_dump(content, sort_keys=False)


if __name__ == "__main__":
    sys.exit(guarded(main))
