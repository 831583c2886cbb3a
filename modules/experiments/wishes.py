"""A command's wishes: what the flags ask for, before anything is looked up."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.benchmarks.base import Benchmark
from modules.paths import PROJECT
from modules.runs.config import Execution
from modules.runs.tracking import FLAGS
from variants.errors import UserError
from variants.outside import options
from variants.schema import Seed, checked

MOST_SEEDS = 1000
"""Seeds of a range; more are a slip of the finger."""


@dataclass(kw_only=True)
class Wishes(Execution):
    """What the command line asks for; None or empty where it leaves the choice to the preset.

    Attributes:
        benchmark: whose tasks are run.
        variant: a name or ``module:Class``; options: those of its hyperparameters that are given.
        preset: a recipe's name, or the path of a recipe file.
        model: a Hub id, a folder, or "embedded".
        data_dir: a folder of data.
        tasks, seeds: of the runs.
        training: the training settings that are given.
        mnli_init: whether the benchmark's later tasks start from the run of its first.
        budget: trained adapter parameters, such as 0.3M.
    """

    benchmark: Benchmark
    variant: str = "lora"
    options: dict[str, Any] = field(default_factory=dict)
    preset: str = "auto"
    model: str | None = None
    data_dir: str | None = None
    tasks: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    mnli_init: bool | None = None
    budget: str | None = None
    wandb: str = "auto"

    @classmethod
    def of(cls, flags: Mapping[str, Any], benchmark: Benchmark, variant: type) -> Wishes:
        """The wishes of parsed flags, each field from the flag of its name.

        Args:
            variant: the class that `--variant` names, whose fields are flags too.

        Raises:
            UserError: seeds are not whole numbers, or a list is empty.
        """

        def given(names: Any) -> dict[str, Any]:
            return {name: flags[name] for name in names if flags.get(name) is not None}

        wishes = given(f.name for f in dataclasses.fields(cls))
        wishes |= {
            "benchmark": benchmark.on({name: str(value) for name, value in given(benchmark.data_flags).items()}),
            "options": options.given(flags, variant),
            "training": given(benchmark.settings.flags()),
            "tasks": names_of(flags.get("tasks")),
            "seeds": seeds_of(flags.get("seeds")),
        }
        if "budget" in wishes:
            wishes["budget"] = str(wishes["budget"])
        return cls(**wishes)

    def command(self, task: str, seed: int) -> str:
        """The complete command line of the run of one task and seed, for the folder in which it is asked for."""
        script, default = PROJECT / "paper_repro" / self.benchmark.script, Wishes(benchmark=self.benchmark)
        if script.is_relative_to(Path.cwd()):
            script = script.relative_to(Path.cwd())
        words = ["python", str(script), "--variant", self.variant, "--preset", self.preset]
        words += ["--model", self.model] if self.model else []
        flags = {
            **self.benchmark.given,
            "data_dir": self.data_dir,
            **self.options,
            **self.training,
            "mnli_init": self.mnli_init,
        }
        flags |= {f"trainer.{name}": value for name, value in self.trainer.items()}
        names = ("results_dir", *FLAGS, "wandb_artifacts", "compile", "reference")
        names += ("gradient_checkpointing", "activation_offload")
        flags |= {name: getattr(self, name) for name in names if getattr(self, name) != getattr(default, name)}
        for name, value in (flags | {"tasks": task, "seeds": seed}).items():
            if value is not None:
                words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
        return shlex.join(words)


def names_of(value: str | None) -> list[str]:
    """Task names from a comma list: lower case and without hyphens; none for "all".

    Raises:
        UserError: the list is empty.
    """
    if value is None or value == "all":
        return []
    if not (found := [part.lower().replace("-", "") for part in parts_of(value)]):
        raise UserError("--tasks names no task; leave it out for all")
    return found


def seeds_of(value: str | int | None) -> list[int]:
    """Seeds from a comma list of numbers and ranges: 0-2,7 is 0, 1, 2 and 7.

    Raises:
        UserError: there is none, or one is not a whole number, or none that libraries take.
    """
    if value is None:
        return []
    seeds: list[int] = []
    if not (parts := parts_of(str(value))):
        raise UserError("--seeds names no seed; leave it out for the recipe's")
    for part in parts:
        if not (found := re.fullmatch(r"(-?\d+)(?:-(\d+))?", part)):
            raise UserError(f"--seeds must be whole numbers such as 0,1,2 or 0-4, not {value!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if not 0 <= last - first < MOST_SEEDS:
            raise UserError(f"--seeds {part}: a range goes up, by fewer than {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    return list(checked(tuple[Seed, ...], list(dict.fromkeys(seeds)), "--seeds"))


def parts_of(text: str) -> list[str]:
    """The parts of a comma list, also of one in brackets as YAML writes it."""
    return [part.strip().strip("'\"") for part in text.strip().strip("[]").split(",") if part.strip()]
