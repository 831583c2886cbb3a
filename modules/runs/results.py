"""One JSON file per run: what decided its outcome, what came out, and what it cost.

A run is named by the hash of what decides its outcome, so a second call knows what is done. Files are written
atomically: a file under its final name is whole, whatever happened to the process or the disk.
"""

import hashlib
import json
import logging
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modules.documents import decoded, parse_json
from modules.runs.record_types import Budget, Cost, Data, Machine, Origin, Parameters, Score, Start, finite
from modules.runs.score_form import printed
from modules.runs.trainer_options import truncates
from variants.atomic import move_aside, write_atomic
from variants.errors import UserError, one_line
from variants.schema import built

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SCHEMA = 1
ADAPTERS = ("best", "last")
"""The adapters in a run's folder, by the epochs that they are of."""
log = logging.getLogger(__name__)


def canonical(value: Any) -> Any:
    """`value` in the one form that equal settings share: 8 and 8.0 are equal, so are lists and tuples.

    Raises TypeError on what JSON does not know, ValueError on a number that is not finite.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place among settings")
        return int(value) if float(value).is_integer() else value
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"keys must be text, got {bad[0]!r}")
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    raise TypeError(f"settings are numbers, text, lists and mappings, got {type(value).__name__}")


def run_id(outcome: Mapping[str, Any]) -> str:
    """Name of a run: 12 hex digits over everything that decides its outcome, in any order of keys."""
    text = json.dumps(canonical(outcome), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(kw_only=True, repr=False)
class RunResult:
    """One finished run, field by field what its JSON file holds. Metrics are fractions, not percentages.

    A file is checked against the types of these fields when it is read.
    """

    _folder = None  # no field: where it was read from or written to, which is not in the file

    schema: int = SCHEMA
    id: str
    benchmark: str
    task: str
    variant: str
    variant_config: dict[str, Any]
    protocol: str  # the recipe's name
    overrides: dict[str, Any] = field(default_factory=dict)  # settings given by hand that differ from the recipe
    budget: Budget | None = None  # wanted and counted, where --budget picked the variant's size
    seed: int
    backbone: Origin
    data: Data
    training: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)  # Trainer options that decide the outcome
    code: str | None = None  # hash of the file that defines a variant from outside the project
    init_from: Start | None = None  # task and id of the run whose weights it started from
    metric: str  # the one that the table prints
    epochs: list[dict[str, Score]]
    best: dict[str, Score]  # the epoch with the best dev metric
    last: dict[str, Score]
    test: dict[str, Any] | None = None  # the figures that the table prints, where they are not the dev set's
    parameters: Parameters
    cost: Cost
    variant_metrics: dict[str, Score] = field(default_factory=dict)
    environment: Machine = field(default_factory=dict)
    wandb_id: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss ceased to be a number: the scores are then those of chance, whatever they look like."""
        scored = (self.best, self.last)
        return bool(self.cost.get("diverged")) or not all(finite_losses(figures) for figures in scored)

    @property
    def truncated(self) -> bool:
        """Whether Trainer options let it train or score on a part of the rows alone: its score is that of a trial."""
        return truncates(self.trainer)

    @property
    def fault(self) -> str:
        """Why it has no score: "diverged" or "truncated"; "" where it is neither."""
        return "diverged" if self.diverged else "truncated" if self.truncated else ""

    @property
    def seconds(self) -> float:
        """Its wall-clock time, 0 where it is not known; seeds that were trained at once share theirs."""
        return (self.cost.get("wall_s") or 0.0) / self.cost.get("stacked", 1)

    @property
    def score(self) -> float | None:
        """The figure that the table prints, as a fraction: `metric` of the test where there is one, else of the best
        epoch; None where the run diverged or was truncated, or where it is no number."""
        return None if self.fault else self._figure()

    def _figure(self) -> float | None:
        figures = self.test if self.test is not None and self.metric in self.test else self.best
        value = figures.get(self.metric)
        return value if isinstance(value, (int, float)) and math.isfinite(value) else None

    @property
    def folder(self) -> Path:
        """Its folder of adapters, `best` and `last`. Raises UserError where it belongs to no results folder."""
        if self._folder is None:
            raise UserError(f"run {self.id} was not read from a results folder: it has no adapters")
        return self._folder

    def load(self, which: str = "best", **options: Any) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        """Its model with the adapter of the best or the last epoch, and the tokenizer: see `modules.load_run`."""
        from modules import load_run

        return load_run(self, which, **options)

    def to_frame(self) -> "pd.DataFrame":
        """A row for each epoch: what names the run, then `epoch`, `train_loss`, `loss` and the metrics."""
        import pandas as pd

        names = {name: getattr(self, name) for name in ("id", "benchmark", "task", "variant", "seed")}
        return pd.DataFrame([names | figures for figures in self.epochs])

    def __repr__(self) -> str:
        """One line: `RunResult(3f0b6c1d2e4a: rte lora seed 0, accuracy 95.2)`."""
        return f"RunResult({self.id}: {self.task} {self.variant} seed {self.seed}, {self._score_words()})"

    def _score_words(self) -> str:
        if self.diverged:
            return "diverged"
        value = self._figure()
        words = f"{self.metric} {'-' if value is None else printed(self.metric, value)}"
        return f"{words}, truncated" if self.truncated else words

    def to_json(self) -> str:
        """The file's text. Numbers that are not finite (a diverged loss) become null, as JSON has none."""
        held = {each.name: getattr(self, each.name) for each in fields(self)}
        return json.dumps(finite(held), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the text") -> "RunResult":
        """Read the text of the file `name`. Raises UserError saying what is wrong with it."""
        data = parse_json(text, name)
        if isinstance(data, dict) and data.get("schema") != SCHEMA:
            raise UserError(f"{name}: schema {data.get('schema')!r}, expected {SCHEMA}")
        result = built(cls, data, name)
        result._check(name)
        return result

    def _check(self, name: str) -> None:
        """Raise UserError on figures that do not belong together."""
        for part in ("best", "last", "test"):
            if (figures := getattr(self, part)) is None:
                continue
            if not isinstance(figures.get("epoch"), int):
                raise UserError(f"{name}: {part!r} lacks the number of its 'epoch'")
            if part != "test" and self.metric not in figures:
                raise UserError(f"{name}: {part!r} lacks the metric {self.metric!r}")
            wrong = [key for key, value in figures.items() if key not in TEXTS and not _is_score(value)]
            if wrong:
                raise UserError(f"{name}: {part}: {wrong[0]} is no score")
        if self.init_from and self.init_from["id"] == self.id:
            raise UserError(f"{name}: it starts from itself")


def finite_losses(figures: Mapping[str, Any]) -> bool:
    """Whether the losses of an epoch, as far as it has any, are finite numbers. In a file they are null where not."""
    losses = [figures[name] for name in ("train_loss", "loss") if name in figures]
    return all(isinstance(loss, (int, float)) and math.isfinite(loss) for loss in losses)


TEXTS = ("missing", "scorers")
"""What a test's figures hold beside scores: why some are missing, and the scorers' versions."""


def _is_score(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value is None or number and not abs(value) > 1e9  # nan is none that a file keeps


class _Unusable(Exception):
    """Why a result file is not usable."""


_said: set[str] = set()  # by this process, of files that it left out
REMEMBERED = 8192
"""Contents of result files that are checked once and not again, since a comparison reads each file ten times: the
largest of the project has 5,568 files. With what makes the object of each reader they take about 5 KB each."""


@lru_cache(REMEMBERED)
def _checked(data: bytes, name: str) -> bytes:
    """The content of the file `name`, pickled: each reader has an object of its own, to change as they like."""
    return pickle.dumps(RunResult.from_json(decoded(data, name), name))


class ResultStore:
    """The folder `root/runs` of one file per run."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"

    def path(self, id: str) -> Path:
        """Where the run `id` is or will be."""
        return self.runs / f"{id}.json"

    def write(self, result: RunResult) -> Path:
        """Store `result` atomically, over an earlier one of the same id. Raises UserError on a full disk."""
        path, text = self.path(result.id), result.to_json()
        RunResult.from_json(text, path.name)  # what could not be read back is not written
        write_atomic(path, text)
        result._folder = (self.runs / result.id).absolute()
        return path

    def read(self, id: str) -> RunResult | None:
        """The run `id`; None where there is none, or where its file is not usable, which is said once.

        Raises:
            UserError: the file may not be read.
        """
        try:
            return self._usable(id)
        except _Unusable as error:
            if (said := f"result file {self.path(id)} is left out: {error}") not in _said:
                _said.add(said)
                log.warning("%s", said)
            return None

    def set_aside(self, id: str) -> None:
        """Give a file that is not usable another name, so that the run, which is about to begin, can write its own.

        Raises:
            UserError: the file may not be read, or not be renamed.
        """
        path = self.path(id)
        try:
            self._usable(id)
        except _Unusable as error:
            try:
                aside = move_aside(path)
            except FileNotFoundError:  # another process of this run was first
                return
            except OSError as why:
                raise UserError(f"result file {path} is not usable ({error}) and cannot be renamed: {why}") from why
            log.warning("result file %s is not usable (%s): moved to %s", path, error, aside.name)

    def _usable(self, id: str) -> RunResult | None:
        path = self.path(id)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror or error}; check the permissions of --results_dir"
            ) from error
        try:
            result: RunResult = pickle.loads(_checked(data, path.name))
            if result.id != id:
                raise UserError(f"it holds the run {result.id!r}")
        except UserError as error:
            raise _Unusable(one_line(error)) from error
        result._folder = (self.runs / id).absolute()
        return result

    def done(self, id: str) -> bool:
        """Whether the run `id` has a whole, readable result."""
        return self.read(id) is not None

    def all(self) -> list[RunResult]:
        """Every readable result, in the order of ids."""
        return [result for path in sorted(self.runs.glob("*.json")) if (result := self.read(path.stem))]
