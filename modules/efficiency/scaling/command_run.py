"""One run of the ordinary command, in a fresh process, for its step time."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from modules.efficiency.jobs.processes import call
from modules.efficiency.jobs.whole_job import LORA, RECIPE
from modules.efficiency.scaling.workloads import Workload
from modules.paths import PROJECT
from variants.errors import UserError

SETTINGS = {name: RECIPE[name] for name in ("lr", "warmup_ratio", "weight_decay", "gradient_clip_val", "max_length")}


def command(
    workload: Workload,
    model: Path,
    data: Path | None,
    *,
    gpus: int,
    rows: int,
    steps: int,
    epochs: int,
    gpu: bool,
    results: Path,
) -> list[str]:
    """The command of a run.

    Args:
        gpus, rows: how many devices, and rows of a batch on each.
        steps, epochs: steps of an epoch, and epochs.
        gpu: whether devices are GPUs, with bf16; else processes of a CPU.
        results: its folder.
    """
    options: dict[str, Any] = {"variant": "lora", "preset": "embedded" if workload.embedded else "default"}
    options |= {"model": "embedded" if workload.embedded else model}
    options |= {"tasks": workload.task, "seeds": 0, "epochs": epochs, "batch_size": rows * gpus}
    options |= SETTINGS | LORA
    options |= {"data_dir": data} if data else {}
    options |= {"score_epoch": "none"} if workload.benchmark == "e2e" else {}
    options |= {"wandb": "off", "results_dir": results}
    options |= {"trainer.devices": gpus, "trainer.accelerator": "gpu" if gpu else "cpu"}
    options |= {"trainer.precision": "bf16-mixed"} if gpu else {}
    options |= {"trainer.limit_train_batches": steps, "trainer.limit_val_batches": 1}
    script = PROJECT / "paper_repro" / f"{workload.benchmark}.py"
    return [sys.executable, str(script), *(w for name, value in options.items() for w in (f"--{name}", str(value)))]


def measure_command(words: list[str], cache: Path, limit_s: float) -> dict[str, Any]:
    """Run a `command` and read its result file.

    Returns:
        ``epoch_ms``, the mean step time of each epoch; ``row_tokens``, mean tokens of a row; ``bytes`` of the fp32
        gradients of what trains; ``peak_mb`` of the first device.

    Raises:
        UserError: the command failed or took too long, or it trained on other devices than it was told.
    """
    results = Path(words[words.index("--results_dir") + 1])
    call(words, cache, limit_s=limit_s)
    files = list((results / "runs").glob("*.json"))
    if len(files) != 1:
        raise UserError(f"{Path(words[1]).name} wrote {len(files)} result files, not one")
    result = json.loads(files[0].read_text(encoding="utf-8"))
    wanted, found = int(words[words.index("--trainer.devices") + 1]), result["environment"]["devices"]
    if found != wanted:
        raise UserError(f"{Path(words[1]).name} trained on {found} devices, not on {wanted}")
    cost, parameters = result["cost"], result["parameters"]
    rows = len(cost["epoch_step_ms"]) * result["data"]["sizes"]["train"]
    return {
        "epoch_ms": cost["epoch_step_ms"],
        "row_tokens": round(cost["tokens"] / rows, 2),
        "bytes": 4 * (parameters["adapter"] + parameters["head"]),
        "peak_mb": cost["peak_memory_mb"],
    }


def scratch() -> tempfile.TemporaryDirectory:
    """A folder for models, caches and results, which goes away at the end."""
    return tempfile.TemporaryDirectory(prefix="scaling-")
