"""Whole jobs in fresh processes: this project's command against transformers' Trainer with PEFT, and against the same
command at an earlier commit."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modules.efficiency.jobs.model_folder import write_model
from modules.efficiency.jobs.processes import call
from modules.paths import PROJECT, checkout
from modules.runs.environment import environment
from variants.errors import UserError
from variants.start import python

RECIPE = {"lr": 5e-4, "batch_size": 32, "max_length": 128, "warmup_ratio": 0.06, "weight_decay": 0.01, "seed": 0}
RECIPE |= {"gradient_clip_val": 1.0, "eval_batch_size": 64}
LORA = {"r": 8, "alpha": 16}
OURS, THEIRS = "ours", "transformers' Trainer with PEFT"
FIT = "from Trainer.fit to the result file"


def whole_jobs(options: argparse.Namespace, device: Any) -> list[dict[str, Any]]:
    """Two records for each task: seconds of fitting, and of the whole process. Both sides take turns.

    Args:
        options: data_dir, model, tasks, epochs and repeats of `paper_repro/efficiency.py`.

    Raises:
        UserError: there are no data, or a job failed.
    """
    folder = options.data_dir or os.environ.get("GLUE_DIR")
    if not folder or not Path(folder).is_dir():
        raise UserError("--job needs GLUE's TSV folders: name them with --data_dir (or GLUE_DIR)")
    jobs = []
    with tempfile.TemporaryDirectory(prefix="efficiency-") as scratch:
        model = Path(options.model or _model(Path(scratch) / "roberta-base-random", Path(folder), options.tasks))
        for task in options.tasks:
            fits: dict[str, list[float]] = {OURS: [], THEIRS: []}
            processes: dict[str, list[float]] = {OURS: [], THEIRS: []}
            for repeat in range(options.repeats):
                for name, side in ((OURS, _ours), (THEIRS, _theirs)):
                    place = Path(scratch) / f"{task}-{repeat}-{name[:5].strip()}"
                    place.mkdir()
                    start = time.perf_counter()
                    fits[name].append(side(task, model, Path(folder).resolve(), options.epochs, device.type, place))
                    processes[name].append(round(time.perf_counter() - start, 2))
                    print(f"{task} {name}: {fits[name][-1]:.1f} s of fitting, {processes[name][-1]:.1f} s", flush=True)
            note = (
                f"LoRA r={LORA['r']} on {model.name}, {options.epochs} epochs of {task.upper()} in batches of "
                f"{RECIPE['batch_size']}, the same rows in each, an evaluation and a checkpoint after every epoch; "
                "each job is a fresh process without caches."
            )
            common = {"note": note, "compared": [OURS, THEIRS], "limit": 0.5, "environment": environment(str(device))}
            jobs.append({"title": f"whole job, {task.upper()}, {FIT}", "seconds": fits, **common})
            jobs.append(
                {"title": f"whole job, {task.upper()}, whole process", "seconds": processes, **common, "limit": None}
            )
    return jobs


def _model(folder: Path, data: Path, tasks: tuple[str, ...]) -> Path:
    """roberta-base with a tokenizer of the tasks' own training sentences."""
    from modules.benchmarks.glue.sources import FolderSource
    from modules.benchmarks.glue.tasks import TASKS

    source = FolderSource(data)
    sentences = [s for task in tasks for texts in source.load(TASKS[task])["train"].texts for s in texts]
    return write_model(folder, "roberta-base", sentences, vocabulary=30_000)


def _ours(task: str, model: Path, data: Path, epochs: int, device: str, place: Path) -> float:
    options = RECIPE | {"epochs": epochs, **LORA}
    options = {k: v for k, v in options.items() if k not in ("eval_batch_size", "seed")}
    command = [sys.executable, str(PROJECT / "paper_repro" / "glue.py"), "--variant", "lora", "--preset", "default"]
    command += ["--model", str(model), "--data_dir", str(data), "--tasks", task, "--seeds", str(RECIPE["seed"])]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command += [
        "--results_dir",
        str(place),
        "--wandb",
        "off",
        "--trainer.accelerator",
        "gpu" if device == "cuda" else "cpu",
    ]
    command += ["--trainer.precision", "bf16-mixed"] if device == "cuda" else []
    call(command, place / "cache")
    (result,) = (place / "runs").glob("*.json")
    return float(json.loads(result.read_text(encoding="utf-8"))["cost"]["wall_s"])


def _theirs(task: str, model: Path, data: Path, epochs: int, device: str, place: Path) -> float:
    settings = RECIPE | {"task": task, "model": str(model), "data_dir": str(data), "epochs": epochs}
    settings |= {
        "bf16": device == "cuda",
        "cpu": device == "cpu",
        "lora": {"r": LORA["r"], "lora_alpha": LORA["alpha"]},
    }
    settings |= {"folder": str(place / "trainer"), "result": str(place / "result.json")}
    (place / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    job = "modules.efficiency.jobs.hf_trainer_job"
    call(python(job, str(place / "settings.json")), place / "cache")
    return round(json.loads((place / "result.json").read_text(encoding="utf-8"))["seconds"], 2)


# ---- the embedded command against itself ---------------------------------------------------------------------


def command_since(commit: str, repeats: int, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """The two-line command of the README on the embedded source, at an earlier commit and now, in turn.

    Raises:
        UserError: there is no such commit, or the command failed.
    """
    seconds: dict[str, list[float]] = {"now": [], commit: []}
    with tempfile.TemporaryDirectory(prefix="efficiency-") as scratch, _checkout(commit, Path(scratch)) as before:
        for repeat in range(repeats):
            for name, project in ((commit, before), ("now", PROJECT)):
                place = Path(scratch) / f"{name}-{repeat}"
                place.mkdir()
                command = [sys.executable, str(project / "paper_repro" / "glue.py"), "--variant", "lora", "--r", "8"]
                command += ["--preset", "embedded", "--results_dir", str(place), "--wandb", "off", *arguments]
                start = time.perf_counter()
                call(command, place / "cache", project)
                seconds[name].append(round(time.perf_counter() - start, 2))
                print(f"embedded GLUE command, {name}: {seconds[name][-1]:.1f} s", flush=True)
    words = " ".join(["glue.py --variant lora --r 8 --preset embedded", *arguments])
    note = f"`{words}`, the whole process, on {os.cpu_count()} cores."
    return {
        "title": "embedded GLUE command",
        "note": note,
        "seconds": seconds,
        "compared": ["now", commit],
        "limit": 0.5,
        "environment": environment(),
    }


@contextlib.contextmanager
def _checkout(commit: str, scratch: Path) -> Iterator[Path]:
    """The project as it was at a commit, in a folder of its own."""
    place = scratch / "before"
    root = checkout("--since compares commits of a checkout: run it in one")
    git = ["git", "-C", str(root), "worktree"]
    done = subprocess.run([*git, "add", "--detach", str(place), commit], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"--since {commit}: git cannot check it out: {done.stderr.strip().splitlines()[-1]}")
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], capture_output=True)
