"""Many processes that share runs by claims, killed and suspended at random: is every run done once?

    python -m tests.support.claims_stress FOLDER --processes 8 --runs 40 --kills 20 --stops 5 --machines 2 --silence 3

A run is a short sleep and a result file. ``--machines 2`` gives every other process the name of another machine, so
that only beats tell of it. The command may be started on several machines at once with one FOLDER on a file system
that they share; each prints the figures of all of them. It exits with 1 where a run is missing, or, if nobody is
suspended, was recorded twice or with two processes at once. One that is suspended just between its last look and its
writing, and is woken after it was taken over, does record a run twice: the later file replaces the earlier, whole.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from modules.launch import machine
from modules.launch.claims import SILENCE_VARIABLE, ClaimLost, claim
from variants.atomic import write_new

ROOT = Path(__file__).resolve().parents[2]


def work(folder: Path, runs: int, seconds: float, name: str | None) -> None:
    """Carry out runs until all have results; what is done is noted in a log of this process."""
    if name:  # as if this were another machine
        machine._BOOT = folder / name
        machine._BOOT.write_text(name)
    log = folder / "log" / f"{os.uname().nodename}-{os.getpid()}"
    log.parent.mkdir(exist_ok=True)
    order = [f"run{k}" for k in range(runs)]
    while missing := [id for id in order if not (folder / "runs" / f"{id}.json").exists()]:
        random.shuffle(missing)
        for id in missing:
            with claim(folder / "runs" / id) as mine, open(log, "a") as notes:
                if not mine or (folder / "runs" / f"{id}.json").exists():
                    continue
                with alone(folder / "guards" / id) as nobody_else:
                    if not nobody_else:
                        notes.write(f"together {id}\n")
                    time.sleep(seconds * random.uniform(0.5, 1.5))
                    try:
                        mine.check()
                    except ClaimLost:
                        notes.write(f"lost {id}\n")
                        continue
                    new = write_new(folder / "runs" / f"{id}.json", f"{log.name} {id}".encode())
                    notes.write(f"{'done' if new else 'twice'} {id}\n")
        time.sleep(0.02)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether no other process is in this block, by a lock of the system: a witness that knows nothing of claims."""
    path.parent.mkdir(exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def figures(folder: Path, runs: int) -> dict[str, int]:
    """How many runs have a result, were recorded twice, were at once with two processes, and were given up as lost."""
    lines = [line.split() for log in (folder / "log").iterdir() for line in log.read_text().splitlines()]
    kinds = Counter(words[0] for words in lines)
    done = sum((folder / "runs" / f"run{k}.json").exists() for k in range(runs))
    return {"runs": runs, "done": done} | {kind: kinds[kind] for kind in ("twice", "together", "lost")}


def start(folder: Path, options: argparse.Namespace, number: int) -> subprocess.Popen:
    """A process that works; of the machine that is its number's turn."""
    command = [sys.executable, "-m", "tests.support.claims_stress", str(folder), "--work", "--runs", str(options.runs)]
    command += ["--seconds", str(options.seconds)]
    if options.machines > 1:
        command += ["--name", f"machine{number % options.machines}"]
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), SILENCE_VARIABLE: str(options.silence)}
    return subprocess.Popen(command, env=environment, cwd=ROOT)


def stress(folder: Path, options: argparse.Namespace) -> dict[str, int]:
    """Start the processes, kill and suspend some of them at random moments, and start others instead."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    workers = [start(folder, options, number) for number in range(options.processes)]
    deadline, kills, stops = time.monotonic() + options.limit, options.kills, options.stops
    stopped: list[tuple[float, subprocess.Popen]] = []
    try:
        while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
            time.sleep(options.every * random.uniform(0.5, 1.5))
            number = random.randrange(len(workers))
            victim = workers[number]
            asleep = any(victim is other for _, other in stopped)
            if victim.poll() is None and not asleep and kills + stops:
                if random.random() < kills / (kills + stops):
                    victim.kill()
                    victim.wait()
                    workers[number], kills = start(folder, options, number), kills - 1
                else:
                    victim.send_signal(signal.SIGSTOP)
                    stopped.append((time.monotonic() + 1.5 * options.silence, victim))
                    stops -= 1
            for until, other in list(stopped):
                if time.monotonic() > until:
                    other.send_signal(signal.SIGCONT)
                    stopped.remove((until, other))
    finally:
        for worker in workers:
            with contextlib.suppress(OSError):
                worker.kill()
            worker.wait()
    return figures(folder, options.runs) | {"kills": options.kills - kills, "suspended": options.stops - stops}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 1 where claims have failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, default in (("processes", 8), ("runs", 40), ("kills", 0), ("stops", 0), ("machines", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("seconds", 0.2), ("silence", 3.0), ("every", 0.1), ("limit", 300.0)):
        parser.add_argument(f"--{name}", type=float, default=default)
    parser.add_argument("--work", action="store_true")
    parser.add_argument("--name")
    options = parser.parse_args(arguments)
    if options.work:
        work(options.folder, options.runs, options.seconds, options.name)
        return 0
    begin = time.monotonic()
    found = stress(options.folder, options)
    print(", ".join(f"{name} {value}" for name, value in found.items()), f"in {time.monotonic() - begin:.1f} s")
    return int(found["done"] != options.runs or (not options.stops and found["twice"] + found["together"] > 0))


if __name__ == "__main__":
    sys.exit(main())
