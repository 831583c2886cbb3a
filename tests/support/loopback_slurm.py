"""A SLURM of one node on this machine's loopback: `with loopback_slurm(folder):`, or as a command, to try by hand.

    python -m tests.support.loopback_slurm FOLDER      # until Ctrl-C; it prints what to export
    apt-get install -y slurm-wlm munge                 # what it needs, on Debian; and root

Configuration, key, state and logs lie in the folder; ports are free ones of 127.0.0.1; only own processes are ended.
There is no accounting and there are no cgroups, as in a container.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from modules.processes import end_with_parent

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
CPUS = 8
"""Of the node, whatever the machine has: enough for the tests' jobs to run at once."""


def why_not() -> str | None:
    """Why there can be no SLURM here; None where there can."""
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]:
        return f"{', '.join(missing)} not installed"
    return None if os.geteuid() == 0 else "slurmd wants root"


@contextlib.contextmanager
def loopback_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start SLURM and end it.

    Yields:
        The environment of commands that use it: SLURM_CONF.
    """
    environment = _configure(folder)
    socket_, key = folder / "munge.socket", folder / "munge.key"
    commands = {
        "munged": ["--foreground", "--force", f"--key-file={key}", f"--socket={socket_}",
                   f"--pid-file={folder / 'munged.pid'}", f"--seed-file={folder / 'munged.seed'}"],
        "slurmctld": ["-D", "-c"],
        "slurmd": ["-D", "-N", "localhost"],
    }  # fmt: skip
    started: list[subprocess.Popen] = []
    try:
        for name, arguments in commands.items():
            program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
            with open(folder / f"{name}.out", "w") as output:
                started.append(
                    subprocess.Popen(
                        [program, *arguments], env=os.environ | environment, stdout=output, stderr=output,
                        start_new_session=True, preexec_fn=end_with_parent,
                    )
                )  # fmt: skip
            if name == "munged":
                _until(socket_.exists, "munged")
        _until(lambda: _said(["sinfo", "--noheader", "--format=%T"], environment) == "idle", "slurmctld and slurmd")
        yield environment
    finally:
        if len(started) == len(commands):
            subprocess.run(["scancel", "--me"], env=os.environ | environment, timeout=30, check=False)
            with contextlib.suppress(TimeoutError):
                _until(lambda: not _said(["squeue", "--noheader"], environment), "the last jobs")
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _configure(folder: Path) -> dict[str, str]:
    """Write the configuration; what commands need to find it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munge insists
    key = folder / "munge.key"
    key.unlink(missing_ok=True)
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        controller, node = (each.getsockname()[1] for each in sockets)
    (folder / "slurm.conf").write_text(f"""\
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={_user()}
SlurmdUser={_user()}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
KillWait=3
MailProg=/bin/true
NodeName=localhost NodeHostname={platform.node()} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory=1000
PartitionName=main Nodes=localhost Default=YES MaxTime=INFINITE
""")
    version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=False,
                             env=os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}).stdout  # fmt: skip
    old = version.startswith(("slurm-wlm 2", "slurm 2")) and version.split()[-1] < "23"
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={'cgroup/v1' if old else 'disabled'}\n")
    return {"SLURM_CONF": str(folder / "slurm.conf")}


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name


def _said(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip() or done.stderr.strip()


def _until(condition, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.2)


def main(folder: str) -> None:
    """Keep a SLURM up until Ctrl-C."""
    if reason := why_not():
        sys.exit(f"error: there can be no SLURM here: {reason}")
    with loopback_slurm(Path(folder).absolute()) as environment, contextlib.suppress(KeyboardInterrupt):
        for name, value in environment.items():
            print(f"export {name}={value}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
