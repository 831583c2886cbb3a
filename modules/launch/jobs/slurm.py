"""SLURM's part of `--launch slurm`: options, the queue, and the script that `--plan` prints.

Source: the manuals of sbatch, squeue and scontrol, https://slurm.schedmd.com.
"""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from variants.errors import UserError

OPTIONS = (
    *("account", "begin", "comment", "constraint", "cpus_per_gpu", "cpus_per_task", "exclude", "exclusive", "export"),
    *("gpus", "gpus_per_node", "gpus_per_task", "gres", "hint", "job_name", "licenses", "mail_type", "mail_user"),
    *("mem", "mem_per_cpu", "mem_per_gpu", "nice", "nodelist", "nodes", "ntasks_per_node", "partition", "qos"),
    *("reservation", "setup", "signal_delay_s", "time", "tmp", "wckey"),
)
"""What `--slurm.NAME` may be: sbatch's long options, and `setup` (shell lines before the command) and `signal_delay_s`
(seconds between SLURM's warning and the end of the time)."""

TIME, DELAY = 240, 90
"""Minutes of a job where `--slurm.time` says nothing, and seconds of its warning."""
RESTARTS = 20
"""How often a job that reached its time limit is queued again: a guard against epochs longer than the limit."""


def options_in(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(other words, ``--slurm.NAME VALUE`` or ``--slurm.NAME=VALUE``) of a command whose parser knows no such flags.

    Raises:
        UserError: an option is without a value.
    """
    rest, found, words = [], {}, iter(words)
    for word in words:
        if word.startswith("--slurm."):
            name, equals, value = word.removeprefix("--slurm.").partition("=")
            found[name] = value if equals else next(words, "--")
            if not equals and found[name].startswith("--"):
                raise UserError(f"--slurm.{name} needs a value, such as true where sbatch's own --{name} takes none")
        else:
            rest.append(word)
    return rest, found


def options_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """`--slurm.NAME value` as sbatch's options by their names, the time in minutes.

    Raises:
        UserError: there is no such option, or a value cannot be read.
    """
    options = {name.replace("-", "_"): value for name, value in given.items()}
    for name in options:
        if name in ("array", "array_parallelism"):
            raise UserError(f"--slurm.{name}: the runs are the array; --jobs says how many of them run at once")
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=3)
            hint = f"did you mean --slurm.{', --slurm.'.join(near)}?" if near else f"known are {', '.join(OPTIONS)}"
            raise UserError(f"SLURM's option --slurm.{name} is not known here; {hint}")
    found = {"job_name": "lora-variants", "time": TIME, "signal_delay_s": DELAY} | options
    found = {name: {"true": True, "false": False}.get(str(value).lower(), value) for name, value in found.items()}
    found |= {"time": minutes(found["time"]), "setup": [line for line in (found.get("setup"),) if line]}
    for name in ("nodes", "ntasks_per_node", "signal_delay_s"):
        if name in found:
            if not re.fullmatch("[1-9][0-9]*", str(found[name])):
                raise UserError(f"--slurm.{name} must be a whole number from 1 on, not {found[name]!r}")
            found[name] = int(found[name])
    return {name: value for name, value in found.items() if value is not False}


def minutes(value: Any) -> int:
    """A time limit as SLURM writes it: 90, 1:30:00 (hours), 90:00 (minutes), 2-12 (days and hours), 2-12:30[:00].

    Raises:
        UserError: it is none of these, or no minute.
    """
    text = str(value)
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if parts:
        days, first, second, third = (int(part or 0) for part in parts.groups())
        hours = parts[1] or parts[4]  # where the first number is one of hours, else of minutes
        if (found := days * 1440 + first * 60 + second + third / 60 if hours else first + second / 60) >= 1:
            return int(found)
    raise UserError(f"--slurm.time must be minutes, or a time such as 1:30:00 or 2-12:00, not {text!r}")


def needs_slurm() -> None:
    """Raises UserError where this machine submits no jobs."""
    if not shutil.which("sbatch"):
        raise UserError("--launch slurm needs SLURM's sbatch, which is not on PATH: use a login node of a cluster")


def queue() -> dict[str, tuple[str, str]] | None:
    """Jobs of this person that have not ended: id (``12_3`` in an array) -> (pending or running, SLURM's reason).

    None where SLURM does not answer, as while its controller is started anew.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = {}
    for line in done.stdout.splitlines():
        id, state, reason = line.strip().split("|", 2)
        waits = state.startswith(("PENDING", "CONFIGURING", "REQUEUE", "RESV", "SPECIAL"))
        found[id] = ("pending" if waits else "running", reason if waits and reason != "None" else "")
    return found


def steady_queue(patience: float = 600.0) -> dict[str, tuple[str, str]]:
    """`queue`, asked again while SLURM does not answer. Raises UserError after ``patience`` seconds of that."""
    deadline, pause = time.monotonic() + patience, 1.0
    while (found := queue()) is None:
        if time.monotonic() > deadline:
            raise UserError("SLURM does not answer (squeue); the jobs go on, and the same command looks again")
        time.sleep(pause)
        pause = min(30.0, 2 * pause)
    return found


def script(
    commands: Sequence[str], options: Mapping[str, Any], at_once: int | None, remarks: Sequence[str] = ()
) -> str:
    """The sbatch script of a job array with a task for each command: `sbatch FILE` runs it.

    Args:
        commands: shell lines, carried out where the script is submitted; each goes on from where it was stopped.
        options: of `options_of`.
        at_once: how many tasks run at once; None for as many as SLURM likes.
        remarks: comment lines after the options.
    """
    own = {name: value for name, value in options.items() if name not in ("setup", "signal_delay_s")}
    limit = f"%{at_once}" if at_once else ""
    own |= {
        "array": f"0-{len(commands) - 1}{limit}",
        "open_mode": "append",
        "output": f"{options['job_name']}-%A_%a.log",
        "requeue": True,
        "signal": f"B:USR1@{options['signal_delay_s']}",
    }
    lines = ["#!/bin/bash", *(_flag(name, own[name]) for name in sorted(own))]
    lines += [f"# {remark}" for remark in remarks]
    lines += options["setup"]
    lines += ["commands=(", *(shlex.quote(command) for command in commands), ")"]
    return "\n".join(lines) + BODY


BODY = f"""
set -m  # the command and its workers are a process group, which a signal reaches as one
# before the time is up SLURM sends USR1: the command is stopped, and goes on from its last epoch when its turn comes
again() {{
    kill -TERM -- "-$command"
    wait "$command"
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {RESTARTS} ]; then
        scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" && exit 0
    fi
    exit 1
}}
trap again USR1
eval "${{commands[$SLURM_ARRAY_TASK_ID]}}" &
command=$!
wait "$command"
"""


def _flag(name: str, value: Any) -> str:
    flag = f"#SBATCH --{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={shlex.quote(str(value))}"
