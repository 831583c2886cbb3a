"""`--launch slurm` on a real SLURM: arrays, requeued jobs, failed ones, two commands at once, the printed script."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.launch.jobs.queues import NOTE
from modules.runs.results import ResultStore

ROOT = Path(__file__).resolve().parents[4]
GLUE = [sys.executable, str(ROOT / "paper_repro" / "glue.py")]
LAUNCH = ["--launch", "slurm", "--slurm.time", "30", "--slurm.mem", "100"]
pytestmark = [pytest.mark.slow, pytest.mark.slurm]


def start(*words: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*GLUE, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def until(found, seconds: float = 120.0):
    """What ``found()`` gives as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return value


def logs(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted((folder / "jobs").glob("*_log.out")))


def results(folder: Path) -> list[tuple]:
    return [(run.id, run.epochs, run.best, run.test) for run in ResultStore(folder).all()]


def comparable(folder: Path) -> list[tuple]:
    """Results but for the times that were measured."""

    def plain(epoch: dict) -> dict:
        return {name: value for name, value in epoch.items() if "time" not in name and "second" not in name}

    return [(id, [plain(epoch) for epoch in epochs], best, test) for id, epochs, best, test in results(folder)]


def test_two_commands_at_once_do_each_run_once(slurm_up, command, tmp_path):
    words = [*command, "--seeds", "0,1,2", *LAUNCH, "--jobs", "2"]
    ended = [end(process) for process in (start(*words), start(*words))]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert sum(int(n) for _, out, _ in ended for n in re.findall(r"submitted (\d+) jobs to SLURM", out)) == 3
    assert logs(tmp_path / "results").count("epoch 1/2") == 3 == len(results(tmp_path / "results"))
    assert all(re.search(r"^lora .*  3 +[\d,]+$", out, re.M) for _, out, _ in ended)


@pytest.mark.parametrize("how", ["scontrol requeue {job}", "scancel --signal=USR2 {job}"])
def test_a_requeued_job_goes_on_from_its_last_epoch(slurm_up, command, tmp_path, how):
    """Its result equals that of an unbroken run. Ctrl-C leaves the job, and the command finds it again."""
    words = [*command, "--epochs", "60"]
    assert end(start(*words, "--results_dir", str(tmp_path / "unbroken")))[0] == 0
    process, folder = start(*words, *LAUNCH), tmp_path / "results"
    checkpoint = until(lambda: next(folder.glob("runs/*/last.ckpt"), None))
    job = re.search(r'"job": "(\w+)"', (checkpoint.parent / NOTE).read_text())[1]
    subprocess.run(how.format(job=job).split(), check=True)
    process.send_signal(signal.SIGINT)
    code, _, err = end(process)
    assert code == 130 and f"the jobs go on; scancel {job} ends them" in err
    code, out, err = end(start(*words, *LAUNCH))
    assert code == 0 and "1 run with a job already" in out and "submitted" not in out, err
    assert logs(folder).count("epoch 1/60") == 1 and logs(folder).count("Starting with") == 2
    assert comparable(folder) == comparable(tmp_path / "unbroken") != []


def test_a_failed_job_is_named_with_its_log(slurm_up, command, tmp_path):
    code = tmp_path / "broken.py"
    code.write_text("""
from variants import LoRA
class Broken(LoRA):
    def attach(self, *_, **__):
        raise RuntimeError("broken on purpose")
""")
    code, _, err = end(start(*command, *LAUNCH, "--variant", f"{code}:Broken"))
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and "seed 0 failed" in line
    assert "broken on purpose" in Path(line.rpartition("the log of its job: ")[2]).read_text()


def test_what_slurm_refuses_is_one_line(slurm_up, command):
    code, _, err = end(start(*command, *LAUNCH, "--slurm.partition", "nowhere"))
    assert code == 2 and err.startswith("error: SLURM refuses the jobs: ") and "partition" in err
    assert err.count("\n") == 1


def test_the_printed_script_runs(slurm_up, command, tmp_path):
    """Warned of the end of its time, a task is queued again and goes on."""
    words = [*command, "--epochs", "60", "--seeds", "0,1"]
    code, text, _ = end(start(*words, *LAUNCH, "--plan"))
    assert code == 0 and not (tmp_path / "results").exists()
    script, folder = tmp_path / "job.sh", tmp_path / "results"
    script.write_text(text.replace("python paper_repro/glue.py", " ".join(GLUE)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    sbatch = ["sbatch", "--parsable", str(script)]
    job = subprocess.run(sbatch, env=environment, capture_output=True, text=True, cwd=tmp_path).stdout.strip()
    until(lambda: next(folder.glob("runs/*/last.ckpt"), None))
    for task in (0, 1):
        subprocess.run(["scancel", "--batch", "--signal=USR1", f"{job}_{task}"], check=True)
    until(lambda: len(results(folder)) == 2, 240)
    said = "".join(path.read_text() for path in tmp_path.glob("lora-variants-*.log"))
    assert said.count("seed 0: epoch 1/60") == 1 == said.count("seed 1: epoch 1/60"), said
    assert "stopped; the same command goes on from here" in said
