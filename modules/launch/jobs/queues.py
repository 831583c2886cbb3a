"""Where the jobs of `--launch` wait and run: on this machine, or in SLURM's queue. Both submit by submitit."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.documents import read_json
from modules.launch.jobs import slurm
from modules.launch.jobs.job import WorkerJob
from modules.launch.pool import shared_out
from modules.runs.config import RunConfig
from variants.atomic import write_atomic
from variants.errors import UserError, first_line
from variants.start import python

NOTE = "job.json"
"""File name of the note about a run's job, in the run's folder."""
PATIENCE = 20.0
"""Seconds that local jobs have to end: their workers have half of that."""
FOR_EVER = 10 * 365 * 24 * 60  # minutes: a local job has no time limit
Runs = Sequence[RunConfig]


def submitit() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import submitit as library
    except ImportError as error:
        raise UserError("--launch needs submitit: pip install 'lora-variants[slurm]'") from error
    logging.getLogger("submitit").setLevel(logging.ERROR)
    return library


class Queue:
    """Jobs by their ids.

    Attributes:
        folder: of logs and of submitit's files.
        logs: job -> the path of its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: dict[str, str] = {}

    def known(self, runs: Runs) -> dict[str, str]:
        """(id of a run -> its job) for those that an earlier command has submitted and that have not ended."""
        return {}

    def submit(self, groups: Sequence[Runs], results_dir: str) -> dict[str, str]:
        """Submit a job for each group of runs: id of a run -> its job."""
        raise NotImplementedError

    def states(self) -> dict[str, tuple[str, str]]:
        """Job -> (pending or running, why it is pending); jobs that have ended are not there."""
        raise NotImplementedError

    def stop(self) -> None:
        """The command is stopped."""


class Local(Queue):
    """Jobs on this machine, so many at once, which end with the command.

    Those that start from another one's run wait for it in their workers, as without `--launch`.
    """

    def __init__(self, folder: Path, at_once: int, trainer: Mapping[str, Any], stacked: bool) -> None:
        super().__init__(folder)
        self.at_once, self.trainer, self.stacked = at_once, trainer, stacked
        self.gpus: list[str] = []
        self.waiting: list[WorkerJob] = []
        self.started: dict[str, Any] = {}
        self.taken: dict[str, str] = {}  # job -> its value of CUDA_VISIBLE_DEVICES

    def submit(self, groups: Sequence[Runs], results_dir: str) -> dict[str, str]:
        """Keep the groups for `states` to start."""
        at_once, self.gpus = shared_out(min(self.at_once, len(groups)), self.trainer, self.stacked)
        self.at_once = max(1, at_once)
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        environment = {name: os.environ.get(name) for name in names}  # submitit would hide all GPUs
        environment["LORA_VARIANTS_RUNS_AT_ONCE"] = str(at_once)
        found = {}
        for group in groups:
            word = "+".join(run.id for run in group)
            self.waiting.append(WorkerJob(results_dir, word, dict(environment), os.getpid()))
            found |= {run.id: word for run in group}
        return found

    def states(self) -> dict[str, tuple[str, str]]:
        """Start the jobs that have a place now, and say how all are."""
        running = [id for id, job in self.started.items() if not job.done()]
        while self.waiting and len(running) < self.at_once:
            work = self.waiting.pop(0)
            if self.gpus:  # those with the fewest jobs: jobs do not end in the order of their start
                used = Counter(self.taken[id] for id in running)
                self.taken[work.word] = min(self.gpus, key=used.__getitem__)
                work.environment["CUDA_VISIBLE_DEVICES"] = self.taken[work.word]
            executor = submitit().LocalExecutor(self.folder, python=shlex.join(python()))
            executor.update_parameters(timeout_min=FOR_EVER, stderr_to_stdout=True)
            self.started[work.word] = job = executor.submit(work)
            self.logs[work.word] = str(self.folder / job.paths.stdout.name)
            running.append(work.word)
        return {id: ("running", "") for id in running} | {work.word: ("pending", "") for work in self.waiting}

    def stop(self) -> None:
        """End the jobs, and wait for their end."""
        running = [job for job in self.started.values() if not job.done()]
        for job in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(job.job_id), signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while any(not job.done() for job in running) and time.monotonic() < deadline:
            time.sleep(0.1)


class Slurm(Queue):
    """Jobs of SLURM: an array for the runs that start from nothing, then one for those that start from these.

    A job that starts from another's run would do that run itself if it had failed, or wait for it: the order of the
    arrays is for not holding a GPU meanwhile.
    """

    def __init__(self, folder: Path, at_once: int | None, options: Mapping[str, Any]) -> None:
        super().__init__(folder)
        self.at_once, self.options = at_once, options

    def known(self, runs: Runs) -> dict[str, str]:
        """As the notes in the runs' folders say, and SLURM's queue."""
        notes = {}
        for run in runs:
            with contextlib.suppress(OSError, UserError, ValueError, KeyError, TypeError):
                note = read_json(run.folder / NOTE)
                notes[run.id] = (str(note["job"]), str(note["log"]))
        live = slurm.steady_queue() if notes else {}
        found = {id: job for id, (job, _) in notes.items() if job in live}
        self.logs |= {job: log for job, log in notes.values() if job in live}
        return found

    def submit(self, groups: Sequence[Runs], results_dir: str) -> dict[str, str]:
        """Submit one array or two, and note the jobs. Raises UserError where SLURM refuses them."""
        first = [group for group in groups if not any(run.init_from for run in group)]
        found, after = {}, None
        for part in (first, [group for group in groups if group not in first]):
            if part:
                jobs = self._array([WorkerJob(results_dir, "+".join(run.id for run in group)) for group in part], after)
                after = jobs[0].partition("_")[0]
                for group, job in zip(part, jobs, strict=True):
                    for run in group:
                        found[run.id] = job
                        write_atomic(run.folder / NOTE, json.dumps({"job": job, "log": self.logs[job]}) + "\n")
        return found

    def _array(self, work: Sequence[WorkerJob], after: str | None) -> list[str]:
        """Submit an array whose tasks begin when the jobs of the array ``after`` have ended; the ids of its jobs."""
        options = dict(self.options)
        own = {name: options.pop(name) for name in ("job_name", "time", "signal_delay_s", "setup")}
        own |= {name: options.pop(name) for name in ("nodes", "ntasks_per_node") if name in options}
        steps = ["--kill-on-bad-exit=1"]
        if "cpus_per_task" in options:  # srun does not inherit it
            steps.append(f"--cpus-per-task={options['cpus_per_task']}")
        more = {name.replace("_", "-"): value for name, value in options.items()} | {"requeue": True}
        if after:
            more["dependency"] = f"afterany:{after}"
        library = submitit()
        try:
            executor = library.SlurmExecutor(self.folder, max_num_timeout=slurm.RESTARTS, python=shlex.join(python()))
            executor.update_parameters(
                **own,
                array_parallelism=self.at_once or len(work),
                stderr_to_stdout=True,
                srun_args=steps,
                additional_parameters=more,
            )
            with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what it raises too
                jobs = [executor.submit(each) for each in work]
        except library.core.utils.UncompletedJobError as error:
            raise UserError(f"SLURM refuses the jobs: {_said(error)}") from error
        self.logs |= {job.job_id: str(self.folder / job.paths.stdout.name) for job in jobs}
        print(f"submitted {len(jobs)} jobs to SLURM: {jobs[0].job_id.partition('_')[0]}", flush=True)
        return [job.job_id for job in jobs]

    def states(self) -> dict[str, tuple[str, str]]:
        """As SLURM's queue says."""
        return slurm.steady_queue()

    def stop(self) -> None:
        """The jobs go on: say how they are ended."""
        mains = sorted({job.partition("_")[0] for job in self.logs}, key=int)
        if mains:
            text = "the same command waits for them again, and shows the table"
            print(f"\nthe jobs go on; scancel {' '.join(mains)} ends them; {text}", file=sys.stderr, flush=True)


def _said(error: Exception) -> str:
    """sbatch's own words in an error of submitit's."""
    words = [line.partition("sbatch: error:")[2].strip() for line in str(error).splitlines()]
    return "; ".join(filter(None, words)) or first_line(error)
