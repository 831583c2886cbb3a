"""``train``: a variant trained and scored from Python."""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from modules.api.results import Results
from modules.api.wishes import as_keywords, benchmark_of, named, wishes_of
from modules.benchmarks.base import Benchmark
from modules.runs.results import RunResult
from variants.errors import UserError
from variants.variant import BaseVariant

_Place = str | os.PathLike[str]


@overload
def train(
    variant: str | type[BaseVariant] = "lora", *, seeds: str | int | Sequence[int], **options: Any
) -> Results: ...
@overload
def train(variant: str | type[BaseVariant] = "lora", *, tasks: str | Sequence[str], **options: Any) -> Results: ...
@overload
def train(variant: str | type[BaseVariant] = "lora", *, task: str, seed: int = 0, **options: Any) -> RunResult: ...
@overload
def train(variant: str | type[BaseVariant] = "lora", **options: Any) -> RunResult | Results: ...


def train(
    variant: str | type[BaseVariant] = "lora",
    *,
    benchmark: str | Benchmark | None = None,
    task: str | None = None,
    tasks: str | Sequence[str] | None = None,
    seed: int | None = None,
    seeds: str | int | Sequence[int] | None = None,
    model: _Place | None = None,
    data_dir: _Place | None = None,
    preset: _Place | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    trainer: Mapping[str, Any] | None = None,
    results_dir: _Place = "results",
    wandb: str = "auto",
    force: bool = False,
    stack_seeds: bool = False,
    progress: bool = True,
    **options: Any,
) -> RunResult | Results:
    """Train and score a variant in this process, as the commands do; what is done is not done again.

        train("lora", task="rte", r=8)                                     # one run, with seed 0
        train("dora", tasks=["rte", "mrpc"], seeds=[0, 1, 2], epochs=3)    # six
        train(MyVariant, task="rte", model="embedded", r=4)                # a class of this notebook
        train("lora", benchmark="e2e", model="embedded")
        train("lora", data="my.csv", text="sentence", label="y")           # own data: docs/data.md

    Keywords are the flags of ``paper_repro/glue.py`` and ``e2e.py``, with their defaults; ``--help`` of those explains
    every one. Interrupted runs go on from their last whole epoch at the next call.

    Args:
        variant: a name, ``module:Class``, ``FILE.py:Class``, or the class itself.
        benchmark: "glue", "e2e", one from outside (`FILE.py:Class`), or a `Benchmark` object; by default GLUE, and
            with `data` one's own data.
        task, seed: of one run; the seed is 0 where neither `seed` nor `seeds` is given.
        tasks, seeds: of several runs; "all" tasks are all that the recipe knows.
        model: the backbone: a Hub id, a folder, or "embedded"; by default what fits this machine.
        data_dir: a folder of data.
        preset: a recipe's name, or a recipe file.
        lr, epochs, batch_size: training settings; others, such as `warmup_ratio`, are keywords too.
        trainer: options of `lightning.Trainer`.
        results_dir: where runs are looked up and written.
        wandb: "online", "offline", "off", or "auto": online if logged in, else offline.
        force: train again what is done.
        stack_seeds: train the seeds of a task at once.
        progress: show what is trained, on which data, and how far it is.
        options: of the variant, such as `r` and `alpha`, and further flags.

    Returns:
        The result of one `task` and seed, or of a benchmark's only task; else all results, in the order of tasks and
        seeds.

    Raises:
        UserError: a keyword or value is wrong, or model or data cannot be had: one line that says so.
        VariantError: the variant refuses its options or does not fit the model (a kind of `UserError`).
    """
    bench = benchmark_of(benchmark, "data" in options)
    several = _one_of("task", task, "tasks", tasks) or _one_of("seed", seed, "seeds", seeds)
    if task is None and tasks is None:
        several = several or len(bench.tasks) > 1
    given: dict[str, Any] = dict(
        model=model, data_dir=data_dir, preset=preset, lr=lr, epochs=epochs, batch_size=batch_size
    )
    given |= dict(trainer=trainer, results_dir=results_dir, wandb=wandb, force=force, stack_seeds=stack_seeds)
    given |= {"tasks": task if tasks is None else tasks, "seeds": (seed or 0) if seeds is None else seeds} | options
    spec, cls = named(variant)
    with _random_numbers_as_before():
        from modules.api.here import done_here  # takes seconds
        from modules.experiments.plan import make_plan

        with as_keywords():
            wishes, flags = wishes_of(spec, cls, bench, given)
            plan = make_plan(wishes, cls)
        with contextlib.nullcontext() if progress else _silent():
            results = done_here(
                plan, wishes.results_dir, force=flags.force, stack=flags.stack_seeds, live=None if progress else False
            )
    asked = wishes.tasks or list(dict.fromkeys(run.task for run in plan.runs))
    found = [run for run in results if run.task in asked]
    found.sort(key=lambda run: asked.index(run.task))  # the order of seeds stays
    return Results(found) if several or len(found) != 1 else found[0]


def _one_of(one: str, value: Any, many: str, values: Any) -> bool:
    """Whether several are asked for. Raises UserError where both keywords are given."""
    if value is not None and values is not None:
        raise UserError(f"give either {one} or {many}")
    return values is not None


@contextlib.contextmanager
def _random_numbers_as_before() -> Iterator[None]:
    """Python's, NumPy's and torch's go on afterwards where they stood, after an error or an interrupt too."""
    python = random.getstate()  # the import of lightning draws from Python's
    from lightning.pytorch.utilities.seed import isolate_rng

    error = None
    with isolate_rng():  # which restores nothing where an error passes through it
        try:
            yield
        except BaseException as caught:
            error = caught
    random.setstate(python)
    if error:
        raise error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), warnings.catch_warnings():
        yield
