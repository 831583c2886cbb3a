"""One run: all that decides its outcome, and how it is carried out. No torch here."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.documents import read_json
from modules.runs.record_types import Budget, Origin, Start
from modules.runs.results import ResultStore, run_id
from modules.runs.tracking import Tracking
from modules.runs.trainer_options import TRUNCATING, truncates
from variants.atomic import write_atomic
from variants.schema import Seed, built

NEUTRAL = {
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
    "enable_model_summary",
    "log_every_n_steps",
    "profiler",
    "detect_anomaly",
    "barebones",
    "num_sanity_val_steps",
    "precision",  # decides the outcome, and is kept with the training settings
}
"""Trainer options that decide how a run is carried out and not what comes out."""

COMPILE = {
    "auto": "on GPUs as CUDA graphs, else eager",
    "off": "eager",
}
"""Values of --compile: none changes what is computed."""
CHECKPOINTING = {
    "auto": "on GPUs for models of more than 3 billion parameters",
    "on": "a transformer's blocks are computed again in the backward pass, for less memory",
    "off": "never",
}
"""Values of --gradient_checkpointing: none changes what is computed."""


@dataclass(kw_only=True)
class Execution(Tracking):
    """How runs are carried out and where they are recorded: what a command's wishes and its runs have in common.

    Attributes:
        trainer: options passed to ``lightning.Trainer`` as they are; all but `NEUTRAL` ones decide a run's outcome.
        results_dir: the folder of runs and tables.
        compile: how steps are carried out: see ``COMPILE``.
        reference: whether all acceleration is switched off: plain PyTorch, for checking results.
        gradient_checkpointing: whether blocks are computed again in the backward pass: see ``CHECKPOINTING``.
        activation_offload: whether what the backward pass needs is kept in the host's memory meanwhile.
    """

    trainer: dict[str, Any] = field(default_factory=dict)
    results_dir: str = "results"
    compile: str = "auto"
    reference: bool = False
    gradient_checkpointing: str = "auto"
    activation_offload: bool = False

    def execution(self) -> dict[str, Any]:
        """These fields alone, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(Execution)}


class Place(Origin, total=False):
    """Where a backbone or data are from, and what to load them by: data may take several words."""

    spec: str | dict[str, str]


@dataclass
class RunConfig(Execution):
    """A run of one (benchmark, task, backbone, variant, seed), as its folder's `config.json` holds it.

    Attributes:
        benchmark: as on the command line: a name, ``module:Class`` or ``file.py:Class``.
        variant: as on the command line: a name or ``module:Class``.
        variant_name: the name that the method itself has, as tables show it.
        options: every hyperparameter of the variant.
        protocol: the recipe's name; overrides: settings given by hand that differ from it.
        backbone, data: ``spec`` to load it by, and ``source``, ``name``, ``hash`` for the record;
            a backbone's ``frozen`` names pretrained parts that once trained with the head: ids differ from then.
        training: the training settings that recipe and flags give; the id hashes them as they stand here, and the
            benchmark's settings dataclass fills in the defaults of the others.
        init_from: ``task`` and ``id`` of the run whose weights this one starts from.
        trained_as: folder, from results_dir, of a finished run of the very same training, whose adapters this one takes
            over: it is scored alone. No part of the id.
        code, benchmark_code: hashes of the source files of a variant and a benchmark from outside the project.
        budget: trained adapter parameters ``wanted`` by --budget, which picked the variant's size, and ``counted``.
        command: the command line of this one run, for dashboards.
    """

    benchmark: str
    task: str
    variant: str
    options: dict[str, Any]
    protocol: str
    seed: Seed
    backbone: Place
    data: Place
    training: dict[str, Any]
    init_from: Start | None = None
    trained_as: str | None = None
    code: str | None = None
    benchmark_code: str | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    budget: Budget | None = None
    command: str = ""
    variant_name: str = ""

    @property
    def id(self) -> str:
        """Hash of what decides the outcome: neither device count, nor folder names, dashboard or acceleration."""
        outcome = {k: getattr(self, k) for k in ("benchmark", "task", "variant", "options", "protocol", "seed")}
        outcome |= {"backbone": self.backbone["hash"], "data": self.data["hash"], "code": self.code}
        outcome |= {key: self.backbone[key] for key in ("frozen",) if key in self.backbone}
        outcome |= {"benchmark_code": self.benchmark_code} if self.benchmark_code else {}
        outcome |= {"training": self.training, "init_from": (self.init_from or {}).get("id")}
        outcome |= {"trainer": {k: v for k, v in self.trainer.items() if not _neutral(k, v)}}
        return run_id(outcome)

    @property
    def folder(self) -> Path:
        """Checkpoints and adapters of this run, beside its result file."""
        return Path(self.results_dir) / "runs" / self.id

    @property
    def name(self) -> str:
        """The method's name."""
        return self.variant_name or self.variant.rpartition(":")[2]

    @property
    def title(self) -> str:
        """Such as ``mrpc lora seed 0``."""
        return f"{self.task} {self.name} seed {self.seed}"

    def write(self) -> None:
        """Leave the configuration in the run's folder, where a worker finds it: the run is about to begin, and a result
        file in its place that is not usable is renamed."""
        ResultStore(self.results_dir).set_aside(self.id)
        write_atomic(self.folder / "config.json", json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, results_dir: str, id: str) -> RunConfig:
        """What :meth:`write` left. Raises UserError naming the file and what is wrong."""
        path = Path(results_dir) / "runs" / id / "config.json"
        content = built(cls, read_json(path), str(path))
        return dataclasses.replace(content, results_dir=results_dir)


def _neutral(name: str, value: Any) -> bool:
    """Whether a Trainer option changes nothing: 1.0 of the batches is all of them, while 1 is a single one."""
    return name in NEUTRAL or name in TRUNCATING and not truncates({name: value})
