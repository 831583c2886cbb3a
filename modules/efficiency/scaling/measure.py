"""A session of the scaling benchmark: the command on 1, 2, ... N devices in turn, PEFT beside it, all-reduce times."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modules.efficiency.jobs.processes import call_ranks
from modules.efficiency.jobs.whole_job import LORA
from modules.efficiency.scaling.command_run import SETTINGS, command, measure_command, scratch
from modules.efficiency.scaling.plan import SMALL
from modules.efficiency.scaling.workloads import (
    CPU,
    GPU,
    Record,
    Workload,
    counts,
    plan_of_steps,
    run_name,
    runs_of,
    steady,
)
from modules.efficiency.steps.backbones import LLAMA_7B
from variants.errors import UserError

OURS, SHARDED = "ours", "sharded"
WIDTH = 1024
"""Tokens of a row of the sharded decoder."""
BUFFERS = (500_000, 1_000_000, 3_000_000, 10_000_000)
"""Bytes of the all-reduced buffers; those of the workloads' own gradients are added."""
STEPS, EPOCHS, QUICK_EPOCHS = 50, 12, 6
"""Steps of an epoch, and epochs, of the command and of PEFT."""
LIMIT_S = {"command": 200.0, "peft": 240.0, "all-reduce": 90.0, "sharded": 150.0}
"""The most seconds that a process may take: one that hangs is a failed row."""


def chosen_workloads(shapes: tuple[str, ...], gpu: bool) -> list[Workload]:
    """The workloads of some backbones; by default all of the device's kind.

    Raises:
        UserError: there is none of that name.
    """
    known = {one.shape: one for one in (GPU if gpu else CPU)}
    if unknown := [shape for shape in shapes if shape not in known]:
        raise UserError(f"--shape: --scaling knows no {unknown[0]!r} here; there are {', '.join(known)}")
    return [one for shape, one in known.items() if not shapes or shape in shapes]


def data_folder(work: Workload, options: argparse.Namespace) -> Path | None:
    """Where a workload's rows are: a folder, or None for the project's generator.

    Raises:
        UserError: published rows are wanted, and their folder is not there.
    """
    if work.embedded:
        return None
    flag, variable = ("--data_dir", "GLUE_DIR") if work.benchmark == "glue" else ("--e2e_dir", "E2E_DIR")
    folder = (options.data_dir if work.benchmark == "glue" else options.e2e_dir) or os.environ.get(variable)
    if not folder or not Path(folder).is_dir():
        raise UserError(f"--scaling needs the rows of {work.task.upper()} for {work.shape}: {flag} (or {variable})")
    return Path(folder).resolve()


def assume_network(options: argparse.Namespace, scaling: dict[str, Any]) -> None:
    """Keep in a record what flags say of the network between hosts; what they do not say stays."""
    given = {"gbps": options.network_gbps, "us": options.network_us}
    scaling.setdefault("network", {}).update({name: value for name, value in given.items() if value is not None})


class Session:
    """Measures into a record that is kept after each measurement.

    Args:
        options: of `paper_repro/efficiency.py`: ways, repeats, quick, data_dir, e2e_dir, steps.
        scaling: the record, filled here: ``workloads`` by backbone, ``all_reduce`` by number of devices.
        keep: called after each measurement.
        place: a folder for models, caches and results.
        gpus: how many devices there are; on a CPU processes.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        scaling: dict[str, Any],
        keep: Callable[[], None],
        place: Path,
        gpu: bool,
        gpus: int,
    ) -> None:
        self.options, self.scaling, self.keep, self.place = options, scaling, keep, place
        self.gpu, self.gpus = gpu, gpus
        self.models: dict[str, Path] = {}
        self._start, self._calls = time.perf_counter(), 0

    def say(self, text: str) -> None:
        """A line with the seconds since the start."""
        print(f"[{time.perf_counter() - self._start:5.0f} s] {text}", flush=True)

    def wants(self, way: str) -> bool:
        """Whether --ways asks for it: beginnings or globs."""
        return not self.options.ways or any(fnmatch.fnmatch(way, f"{pattern}*") for pattern in self.options.ways)

    def run(self, work: Workload, record: Record, gpus: int, rows: int) -> None:
        """The command once, as another round of its run; a failure is kept as its reason."""
        found: dict[str, Any] = record["runs"].setdefault(
            run_name(gpus, rows), {"gpus": gpus, "rows": rows, "rounds_ms": []}
        )
        steps, epochs = self._length(work, record["train_rows"], gpus * rows)
        words = command(
            work,
            self.models[work.shape],
            data_folder(work, self.options),
            gpus=gpus,
            rows=rows,
            steps=steps,
            epochs=epochs,
            gpu=self.gpu,
            results=self._folder(),
        )
        told = f"{work.shape}, {gpus} x {rows} rows"
        try:
            measured = measure_command(words, self.place / "cache", LIMIT_S["command"])
        except UserError as error:
            found["rounds_ms"].append(None)
            found["failed"] = str(error)
            self.say(f"{told}: failed: {error}")
        else:
            found["rounds_ms"].append(round(steady(measured["epoch_ms"]), 4))
            record["bytes"] = measured.pop("bytes")
            found |= measured | {"tokens": round(measured["row_tokens"] * rows * gpus)}
            self.say(f"{told}: {found['rounds_ms'][-1]:.2f} ms a step")
        self.keep()

    def peft(self, work: Workload, record: Record, way: str) -> None:
        """PEFT under accelerate on all devices, rows of each as in weak scaling."""
        folder = self._folder()
        steps, epochs = self._length(work, record["train_rows"], self.gpus * work.rows)
        data = data_folder(work, self.options)
        settings = {"shape": work.shape, "way": way, "model": str(self.models[work.shape]), "gpu": self.gpu}
        settings |= {"data": data and str(data), "batch": self.gpus * work.rows, "steps": steps, "lora": LORA}
        settings |= {"epochs": epochs, "lr": SETTINGS["lr"], "clip": SETTINGS["gradient_clip_val"]}
        settings |= {"max_length": SETTINGS["max_length"]}
        found = self._job("peft_job", folder, settings, "peft")
        record["peft"][way] = found | {"gpus": self.gpus, "rows": work.rows}
        ms = f"{steady(found['epoch_ms']):.2f} ms a step" if "epoch_ms" in found else f"failed: {found['failed']}"
        self.say(f"{work.shape}, {self.gpus} x {work.rows} rows, PEFT {way}: {ms}")
        self.keep()

    def all_reduce(self, gpus: int) -> None:
        """Times of an all-reduce on some devices."""
        sizes = sorted({*BUFFERS, *(r["bytes"] for r in self.scaling["workloads"].values() if "bytes" in r)})
        found = self._job("allreduce_job", self._folder(), {"bytes": sizes, "gpu": self.gpu}, "all-reduce", gpus)
        self.scaling["all_reduce"][str(gpus)] = found
        told = found.get("failed") or ", ".join(
            f"{size / 1e6:.2g} MB {ms:.3f} ms" for size, ms in zip(found["bytes"], found["ms"], strict=True)
        )
        self.say(f"all-reduce on {gpus}: {told}")
        self.keep()

    def sharded(self) -> None:
        """A LLaMA of 7B on one GPU, and in shards on all: peak memory and step time, with the same rows in all, and
        with the same rows, and so activations, on each."""
        record = self.scaling["sharded"] = {"width": WIDTH, "r": 16, "runs": {}}
        for gpus, rows in ((1, self.gpus), (self.gpus, 1), (1, 1)):
            settings = {"config": LLAMA_7B, "r": 16, "rows": gpus * rows, "width": WIDTH, "steps": 6, "gpu": self.gpu}
            found = self._job("sharded_job", self._folder(), settings, "sharded", gpus)
            record["runs"][run_name(gpus, rows)] = found
            peak, ms = found.get("peak_mb", 0) / 1024, found.get("step_ms", 0)
            told = f"failed: {found['failed']}" if "failed" in found else f"{peak:.1f} GiB, {ms:.0f} ms a step"
            self.say(f"LLaMA 7B, {gpus} x {rows} rows: {told}")
            self.keep()

    def _job(
        self, name: str, folder: Path, settings: dict[str, Any], kind: str, gpus: int | None = None
    ) -> dict[str, Any]:
        result, file = folder / "result.json", folder / "settings.json"
        file.write_text(json.dumps(settings | {"result": str(result)}), encoding="utf-8")
        try:
            call_ranks(f"modules.efficiency.scaling.{name}", file, gpus or self.gpus, LIMIT_S[kind])
            return json.loads(result.read_text(encoding="utf-8"))
        except (UserError, OSError) as error:
            return {"failed": str(error)}

    def _length(self, work: Workload, rows: int, batch: int) -> tuple[int, int]:
        epochs = QUICK_EPOCHS if self.options.quick else EPOCHS
        steps = STEPS
        if work.benchmark == "e2e":  # its padded batches have more shapes than packed ones: more steps see all of them
            steps *= 3
        return plan_of_steps(rows, batch, steps if self.gpu else 6, epochs if self.gpu else 2)

    def _folder(self) -> Path:
        self._calls += 1
        folder = self.place / f"{self._calls:03}"
        folder.mkdir()
        return folder


def measure_scaling(
    options: argparse.Namespace, device: torch.device, scaling: dict[str, Any], keep: Callable[[], None]
) -> None:
    """Measure what `paper_repro/efficiency.py --scaling` was asked for.

    The first round of all workloads, all-reduce times, PEFT, one GPU with few rows, then the further rounds: whoever
    stops it early has a whole table.

    Args:
        scaling: the record of an earlier session or {}; what is measured again is replaced.
        keep: called after each measurement.

    Raises:
        UserError: there is no such workload, or its rows are not there.
    """
    gpu = device.type == "cuda"
    gpus = torch.cuda.device_count() if gpu else 2
    chosen = chosen_workloads(options.shape, gpu)
    for work in chosen:
        data_folder(work, options)
    scaling |= {"device": device.type, "gpus": gpus, "precision": "bf16" if gpu else "fp32"}
    assume_network(options, scaling)
    scaling.setdefault("workloads", {})
    scaling.setdefault("all_reduce", {})
    with scratch() as folder:
        session = Session(options, scaling, keep, Path(folder), gpu, gpus)
        if gpus == 1:
            session.say(
                "one GPU: there is nothing to scale; one is measured, and several are planned without all-reduce"
            )
        for work in chosen:
            source, task = work.source(data_folder(work, options))
            session.models[work.shape] = work.model(Path(folder), data_folder(work, options))
            record = {"peft": {}} | scaling["workloads"].get(work.shape, {"runs": {}})
            record |= {"title": work.title, "train_rows": len(source.load(task)["train"])}
            record |= {"runs": {}} if session.wants(OURS) else {}  # rounds of two sessions do not belong together
            scaling["workloads"][work.shape] = record
            session.say(f"{work.shape}: model folder written")
        records = [(work, scaling["workloads"][work.shape]) for work in chosen]
        for number in range(options.repeats if session.wants(OURS) else 0):
            for work, record in records:
                for count, rows in runs_of(work.rows, gpus).values():
                    session.run(work, record, count, rows)
            if number == 0:
                _beside(session, records)
        if not session.wants(OURS):
            _beside(session, records)


def _beside(session: Session, records: list[tuple[Workload, Record]]) -> None:
    """What is measured once: all-reduce times, PEFT, one GPU with few rows."""
    for count in counts(session.gpus)[1:]:
        session.all_reduce(count)
    for work, record in records:
        for way in work.peft:
            if session.wants(f"peft {way}") and (not session.options.quick or way.startswith("eager")):
                session.peft(work, record, way)
    if session.gpu and session.gpus > 1 and session.wants(SHARDED) and not session.options.shape:
        session.sharded()
    for work, record in records:
        if session.wants(OURS) and not session.options.quick:
            session.run(work, record, 1, work.rows // SMALL)
