"""Commands and ranks in fresh processes, which end with this one."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from modules.launch.ranks import free_port
from modules.paths import PROJECT
from modules.processes import WITH_PARENT, end
from variants.errors import UserError
from variants.start import python


def call(command: list[str], cache: Path, project: Path = PROJECT, limit_s: float | None = None) -> None:
    """Run a command of the project.

    Args:
        cache: the folder that it keeps prepared data in.
        project: the checkout that it comes from.
        limit_s: the most seconds that it may take.

    Raises:
        UserError: it failed, with the last line of its errors, or took too long.
    """
    env = _environment(project) | {"LORA_VARIANTS_CACHE": str(cache), "TOKENIZERS_PARALLELISM": "true"}
    name = Path(command[1]).name
    try:
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} was ended: it had not finished after {limit_s:.0f} s") from None
    if done.returncode:
        raise UserError(f"{name} failed: {_last_line(done.stderr) or done.returncode}")


def call_ranks(module: str, settings: Path, ranks: int, limit_s: float) -> None:
    """Run ``python -m MODULE SETTINGS`` in several processes that know one another as torchrun's do, on this machine.

    The output of rank N is kept beside the settings, in ``rank-N.txt``.

    Raises:
        UserError: a rank failed, with the last line of its output, or they took too long; the others are ended.
    """
    common = _environment(PROJECT) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    common |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    common |= {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks))}
    command, name = python(module, str(settings)), module.rpartition(".")[2]
    processes, outputs = [], [settings.parent / f"rank-{rank}.txt" for rank in range(ranks)]
    try:
        for rank, output in enumerate(outputs):
            env = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            with output.open("w", encoding="utf-8") as file:
                processes.append(subprocess.Popen(command, cwd=PROJECT, env=env, stdout=file, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + limit_s
        while None in (ended := [process.poll() for process in processes]) and not any(ended):
            if time.monotonic() > deadline:
                raise UserError(f"{name} was ended: it had not finished after {limit_s:.0f} s")
            time.sleep(0.05)
        for rank, code in enumerate(ended):
            if code:
                told = _last_line(outputs[rank].read_text(encoding="utf-8", errors="replace"))
                raise UserError(f"rank {rank} of {name} failed: {told or code}")
    finally:
        end(processes)


def _environment(project: Path) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, (str(project), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": paths, WITH_PARENT: str(os.getpid())}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("error: ") if lines else ""
