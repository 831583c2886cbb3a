"""SLURM's options, time limits and script; no SLURM is needed."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from modules.launch.jobs import slurm
from variants.errors import UserError


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 90), ("1:30:00", 90), ("2-12", 3600), ("2-12:30", 3630), ("1-0:0:59", 1440), (240, 240)],
)
def test_minutes(text, minutes):
    assert slurm.minutes(text) == minutes


@pytest.mark.parametrize("text", ["", "x", "0", "0:59", "1:2:3:4", "-5", "1h"])
def test_what_is_no_time(text):
    with pytest.raises(UserError, match="--slurm.time must be minutes"):
        slurm.minutes(text)


def test_options_by_sbatchs_names():
    found = slurm.options_of({"gpus-per-node": "1", "exclusive": "true", "time": "2:00:00", "setup": "module load x"})
    assert found["gpus_per_node"] == "1" and found["exclusive"] is True and found["time"] == 120
    assert found["setup"] == ["module load x"] and found["job_name"] == "lora-variants"
    assert "exclusive" not in slurm.options_of({"exclusive": "false"})


def test_options_are_taken_out_of_a_command():
    words = ["FILE", "--slurm.time", "2:00:00", "--jobs", "3", "--slurm.gres=gpu:1"]
    assert slurm.options_in(words) == (["FILE", "--jobs", "3"], {"time": "2:00:00", "gres": "gpu:1"})
    for words in (["--slurm.exclusive"], ["--slurm.exclusive", "--jobs", "3"]):
        with pytest.raises(UserError, match="--slurm.exclusive needs a value, such as true"):
            slurm.options_in(words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"partitoin": "x"}, "did you mean --slurm.partition"),
        ({"array": "1-3"}, "--jobs says how many"),
        ({"nodes": "two"}, "--slurm.nodes must be a whole number"),
    ],
)
def test_wrong_options(given, words):
    with pytest.raises(UserError, match=words):
        slurm.options_of(given)


def test_the_script_carries_out_the_command_of_its_task(tmp_path):
    """Bash reads it as one array, quotes of the commands included; options stand before the first command."""
    commands = [f"echo {shlex.quote(text)} > {tmp_path}/{k}" for k, text in enumerate(["it's", '"two" $HOME'])]
    text = slurm.script(commands, slurm.options_of({"partition": "gpu", "setup": "export LOADED=1"}), 4, ["a remark"])
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash" and "#SBATCH --array=0-1%4" in lines and "#SBATCH --requeue" in lines
    assert "#SBATCH --signal=B:USR1@90" in lines and "#SBATCH --partition=gpu" in lines and "# a remark" in lines
    assert max(k for k, line in enumerate(lines) if line.startswith("#SBATCH")) < lines.index("export LOADED=1")
    for task, said in enumerate(["it's", '"two" $HOME']):
        subprocess.run(
            ["bash", "-c", text], env={"SLURM_ARRAY_TASK_ID": str(task), "PATH": "/usr/bin:/bin"}, check=True
        )
        assert (tmp_path / str(task)).read_text().strip() == said


def test_the_queue_is_read(monkeypatch, tmp_path):
    lines = "12_0|RUNNING|None\n12_1|PENDING|Priority\n13|COMPLETING|None\n14|REQUEUED|BeginTime\n"
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\ncat << END\n{lines}END\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert slurm.queue() == {
        "12_0": ("running", ""),
        "12_1": ("pending", "Priority"),
        "13": ("running", ""),
        "14": ("pending", "BeginTime"),
    }
    squeue.write_text("#!/bin/sh\nexit 1\n")
    assert slurm.queue() is None
    with pytest.raises(UserError, match="SLURM does not answer"):
        slurm.steady_queue(patience=0)
