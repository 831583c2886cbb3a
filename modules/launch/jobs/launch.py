"""`--launch local|slurm`: each run is a job of its own, submitted by submitit, on this machine or by SLURM.

Result files are the only truth: what a job is said to have done is not asked. A run's job is noted in its folder, so
that the same command, started again, finds it in the queue.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.launch.claims import alone
from modules.launch.holders import holder
from modules.launch.jobs import slurm
from modules.launch.jobs.queues import Local, Queue, Slurm, submitit
from modules.launch.pool import NOTHING, default_jobs, run_workers
from modules.launch.progress_line import runs_text
from modules.runs.config import RunConfig
from modules.runs.ranks import launched
from modules.runs.results import ResultStore
from variants.errors import UserError

JOBS = "jobs"
"""Folder of the jobs' logs and of submitit's files, in the results folder."""
LONGEST = 30.0  # seconds between two looks at the queue; the first come sooner
SAY = 600.0  # seconds after which a line about the jobs comes even where nothing has changed


@dataclass(frozen=True)
class Launch:
    """How `--launch` carries out runs.

    Attributes:
        where: local or slurm.
        options: SLURM's: see `slurm.options_of`.
    """

    where: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def elsewhere(self) -> bool:
        """Whether runs are carried out on other machines than this one."""
        return self.where == "slurm"

    @classmethod
    def of(cls, where: str | None, options: Mapping[str, Any] | None, submits: bool = True) -> Launch | None:
        """The launch that flags ask for; None without one.

        Args:
            submits: whether jobs are to be submitted from here, and not only a script written.

        Raises:
            UserError: flags do not fit together, or what the launch needs is not on this machine.
        """
        if where is None:
            if options:
                raise UserError(f"--slurm.{next(iter(options))} needs --launch slurm")
            return None
        if where not in ("local", "slurm"):
            raise UserError(f"--launch must be local or slurm, not {where!r}")
        if where == "local" and options:
            raise UserError(f"--slurm.{next(iter(options))} is for --launch slurm, not for --launch local")
        if launched():
            raise UserError("--launch starts the processes itself: leave torchrun or srun out")
        launch = cls(where, slurm.options_of(options or {}) if where == "slurm" else {})
        if submits:
            submitit()
            if where == "slurm":
                slurm.needs_slurm()
        return launch


def carry_out(
    groups: Sequence[Sequence[RunConfig]],
    results_dir: str,
    launch: Launch | None,
    jobs: int | None,
    trainer: Mapping[str, Any],
    stacked: bool,
) -> int:
    """Carry out runs, in workers or as jobs, and wait for them; the exit code.

    Args:
        groups: runs without a result, those first that others start from; several in a group are stacked.
        launch: how they become jobs; None for workers of this process.
        jobs: how many run at once; None for a choice by devices and cores (`default_jobs`), on SLURM by SLURM.
        trainer, stacked: as for `run_workers`.
    """
    if launch:
        return run_jobs(groups, results_dir, launch, jobs, trainer, stacked)
    jobs = default_jobs(trainer, stacked) if jobs is None else jobs
    return run_workers(["+".join(run.id for run in group) for group in groups], results_dir, jobs, trainer, stacked)


def run_jobs(
    groups: Sequence[Sequence[RunConfig]],
    results_dir: str,
    launch: Launch,
    jobs: int | None,
    trainer: Mapping[str, Any] = NOTHING,
    stacked: bool = False,
) -> int:
    """Submit a job for each group of runs that no job in the queue is for, and wait for all; the exit code.

    Args:
        groups, jobs, trainer, stacked: as for `carry_out`.
    """
    if not groups:
        return 0
    folder = Path(results_dir) / JOBS
    if launch.where == "local":
        queue = Local(folder, jobs or default_jobs(trainer, stacked), trainer, stacked)
    else:
        queue = Slurm(folder, jobs, launch.options)
    try:
        with alone(folder):  # so that a second command finds the jobs of the first
            known = queue.known([run for group in groups for run in group])
            new = [left for group in groups if (left := [run for run in group if run.id not in known])]
            if known:
                print(f"{runs_text(len(known))} with a job already", flush=True)
            known |= queue.submit(new, results_dir)
        return _wait({run.id: run for group in groups for run in group}, known, queue, ResultStore(results_dir))
    except BaseException:
        queue.stop()
        raise


def _wait(runs: Mapping[str, RunConfig], jobs: Mapping[str, str], queue: Queue, store: ResultStore) -> int:
    """Wait until each run has a result or its job has ended without one; 1 where a job failed, else 0."""
    begin = said = time.monotonic()
    shown, before, failed = "", set(), set()
    while True:
        live = queue.states()
        missing = [id for id in runs if not store.path(id).is_file()]
        ended = {id for id in missing if jobs[id] not in live}
        for id in sorted((ended & before) - failed):  # so twice: a result may come late on a network's folder
            failed.add(id)
            _tell(runs[id], queue.logs.get(jobs[id], ""))
        before = ended
        states = Counter(live[jobs[id]][0] for id in missing if jobs[id] in live)
        reasons = Counter(reason for id in missing if (reason := live.get(jobs[id], ("", ""))[1]))
        why = f" ({reasons.most_common(1)[0][0]})" if reasons else ""
        line = f"jobs: {len(runs) - len(missing)} of {runs_text(len(runs))} done, {states['running']} running, "
        line += f"{states['pending']} pending{why}, {len(failed)} failed"
        now = time.monotonic()
        if line != shown or now - said > SAY:
            print(line, flush=True)
            shown, said = line, now
        if len(failed) == len(missing):
            return 1 if failed else 0
        time.sleep(min(LONGEST, max(1.0, (now - begin) / 20)))


def _tell(run: RunConfig, log: str) -> None:
    """One line about a run whose job ended without a result: the last error in its log, and where that is."""
    if holder(run.folder):
        return  # whose command says more at the end
    errors = []
    with contextlib.suppress(OSError):
        lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = errors[-1] if errors else f"{run.title}: its job ended without a result"
    print(f"error: {said}; the log of its job: {log}", file=sys.stderr, flush=True)
