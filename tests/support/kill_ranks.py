"""``python -m tests.support.kill_ranks --times 10 --seed 0 [--accelerator gpu]``: one rank of a run is killed, again
and again, at random moments; the other must end, the command must say so in one line, and the same command must go on.

Prints a table; exit code 1 where a check failed, which is named.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modules.runs.results import ResultStore, RunResult

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
"""In which the command must have ended after one of its ranks was killed."""
RUN = "--model embedded --tasks rte --seeds 0 --epochs 4 --trainer.limit_train_batches 12 --wandb off"
"""The command's flags when this file is run; the number of ranks and the accelerator are added."""

NO_TABLE = "no results under "
"""What the command says of its table where there is no result yet: no error."""


@dataclass
class Whole:
    """A command that nobody disturbed: what came out, what it printed as errors, when ranks were there and it ended."""

    result: RunResult
    folder: Path
    errors: set[str]
    begin: float
    end: float


@dataclass
class Kill:
    """What followed when a rank was killed: the seconds from the ranks' start, which one, the seconds until the command
    had ended, what it said, its code, and the checks that failed."""

    moment: float
    rank: int
    seconds: float
    line: str
    code: int
    failed: list[str]


def start(flags: Sequence[str], folder: Path) -> subprocess.Popen:
    """The GLUE command with these flags and this folder of results."""
    command = [sys.executable, str(ROOT / "paper_repro" / "glue.py"), *flags, "--results_dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def family(process: int) -> list[int]:
    """A process and all that descend from it, as /proc tells; none that has ended."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [process]
    for each in found:
        found += children.get(each, [])
    return found


def ranks(command: subprocess.Popen) -> dict[int, int]:
    """The processes of the ranks that a command has started, by their numbers."""
    found = {}
    for process in family(command.pid):
        try:
            if b"modules.launch.rank\0" in Path(f"/proc/{process}/cmdline").read_bytes():
                content = Path(f"/proc/{process}/environ").read_bytes()
                found[int(content.split(b"\0LOCAL_RANK=")[1].split(b"\0")[0])] = process
        except (OSError, IndexError):
            continue
    return found


def wait_for_ranks(command: subprocess.Popen) -> dict[int, int]:
    """The ranks of a command as soon as it has two; fewer where it has ended."""
    while len(found := ranks(command)) < 2 and command.poll() is None:
        time.sleep(0.02)
    return found


def unbroken(flags: Sequence[str], folder: Path) -> Whole:
    """Carry a command out from its beginning to its end."""
    command, begin = start(flags, folder), time.monotonic()
    wait_for_ranks(command)
    came = time.monotonic()
    errors = command.communicate()[1]
    assert command.returncode == 0, errors
    (result,) = ResultStore(folder).all()
    return Whole(result, folder / "runs" / result.id, set(errors.splitlines()), came - begin, time.monotonic() - begin)


def kill_one(
    flags: Sequence[str], folder: Path, whole: Whole, moment: float, rank: int, exactly: bool = True
) -> Kill | None:
    """Kill a rank ``moment`` seconds after the ranks have started, look how the command ends, and let it go on.

    Args:
        exactly: whether the result must be the unbroken run's to the last bit.

    Returns:
        None where the run was faster than the unbroken one, and had ended well before its moment came.
    """
    command = start(flags, folder)
    found = wait_for_ranks(command)
    time.sleep(moment)
    processes = family(command.pid)
    try:
        os.kill(found[rank], signal.SIGKILL)
    except ProcessLookupError:
        errors = command.communicate()[1]
        assert command.returncode == 0, f"rank {rank} had ended by itself:\n{errors}"
        return None
    killed = time.monotonic()
    try:
        errors = command.communicate(timeout=2 * SECONDS)[1]
    except subprocess.TimeoutExpired:
        for process in family(command.pid):
            os.kill(process, signal.SIGKILL)
        errors = command.communicate()[1]
    seconds = time.monotonic() - killed
    lines = [line for line in errors.splitlines() if line not in whole.errors and not line.startswith(NO_TABLE)]
    time.sleep(0.2)
    left = [process for process in processes if Path(f"/proc/{process}").exists()]
    checks = {
        f"{SECONDS:g} seconds": seconds < SECONDS,
        "one line": len(lines) == 1 and lines[0].startswith(f"error: rank {rank} of ") and "(SIGKILL)" in lines[0],
        "exit code": command.returncode == 1,
        "no process is left": not left,
    }
    again = start(flags, folder)
    errors = again.communicate()[1]
    results = ResultStore(folder).all()
    checks |= {"goes on": again.returncode == 0, "one result": len(results) == 1}
    if len(results) == 1:
        checks["equal result"] = same(whole, results[0], folder / "runs" / results[0].id, exactly)
    return Kill(moment, rank, seconds, " | ".join(lines), command.returncode, [k for k, v in checks.items() if not v])


def same(whole: Whole, result: RunResult, folder: Path, exactly: bool) -> bool:
    """Whether a run has the unbroken one's scores and weights: to the last bit, or else about its losses (on GPUs,
    whose sums come in any order)."""
    losses = [[epoch["train_loss"] for epoch in each.epochs] for each in (whole.result, result)]
    if not exactly:
        return result.id == whole.result.id and losses[1] == pytest.approx(losses[0], rel=0.05)
    scores = [(each.id, each.epochs, each.best, each.test) for each in (whole.result, result)]
    ours, theirs = (load_file(each / "last" / "adapter.safetensors") for each in (whole.folder, folder))
    return scores[0] == scores[1] and all(ours[name].equal(theirs[name]) for name in ours | theirs)


def main(argv: Sequence[str] | None = None) -> int:
    """Kill as often as asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accelerator", default="cpu")
    options = parser.parse_args(argv)
    flags = [*RUN.split(), "--trainer.devices", "2", "--trainer.accelerator", options.accelerator]
    draw, failed = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        whole = unbroken(flags, Path(folder) / "whole")
        print(f"unbroken: ranks after {whole.begin:.1f} s, end after {whole.end:.1f} s; {' '.join(flags)}")
        print("kill  rank  moment s  seconds to the end  code  checks  line", flush=True)
        latest = 0.8 * (whole.end - whole.begin)
        for k in range(options.times):
            moment, rank = draw.uniform(0, latest), draw.randrange(2)
            exactly = options.accelerator == "cpu"
            while (kill := kill_one(flags, Path(folder) / f"{k}-{moment:.2f}", whole, moment, rank, exactly)) is None:
                print(f"the run had ended before second {moment:.2f}: nobody killed, again at half of it", flush=True)
                moment /= 2
            checks = "failed: " + ", ".join(kill.failed) if kill.failed else "all"
            print(f"{k + 1:4}  {rank:4}  {moment:8.2f}  {kill.seconds:18.2f}  {kill.code:4}  {checks:6}  {kill.line}")
            sys.stdout.flush()
            failed += bool(kill.failed)
    print(f"{options.times - failed} of {options.times} kills passed all checks")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
