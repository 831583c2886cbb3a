"""One JSON file per run: what decided its outcome, what came out, and what it cost.

A run is named by the hash of what decides its outcome, so a second call knows what is done. Files are written
atomically: a file under its final name is whole, whatever happened to the process or the disk.
"""

import hashlib
import json
import logging
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from variants.atomic import move_aside, write_atomic
from variants.errors import UserError

SCHEMA = 1
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


def _holding(*keys: str) -> dict[str, tuple[str, ...]]:
    """Metadata of a field: keys that its mapping must have."""
    return {"keys": keys}


@dataclass(kw_only=True)
class RunResult:
    """One finished run, field by field what its JSON file holds. Metrics are fractions, not percentages.

    A file is checked against these fields: their types, and the keys that some mappings must have.
    """

    schema: int = SCHEMA
    id: str
    benchmark: str
    task: str
    variant: str
    variant_config: dict[str, Any]
    protocol: str  # the recipe's name
    overrides: dict[str, Any] = field(default_factory=dict)  # settings given by hand that differ from the recipe
    budget: dict[str, int] | None = None  # wanted and counted, where --budget picked the variant's size
    seed: int
    backbone: dict[str, Any] = field(metadata=_holding("source", "name", "hash"))
    data: dict[str, Any] = field(metadata=_holding("source", "name", "hash", "sizes"))  # sizes by split
    training: dict[str, Any]
    trainer: dict[str, Any] = field(default_factory=dict)  # Trainer options that decide the outcome
    code: str | None = None  # hash of the file that defines a variant from outside the project
    init_from: dict[str, Any] | None = None  # task and id of the run whose weights it started from
    metric: str  # the one that the table prints
    epochs: list[dict[str, Any]]
    best: dict[str, Any] = field(metadata=_holding("epoch"))  # the epoch with the best dev metric
    last: dict[str, Any] = field(metadata=_holding("epoch"))
    test: dict[str, Any] | None = None  # the figures that the table prints, where they are not the dev set's
    parameters: dict[str, int] = field(metadata=_holding("adapter", "head", "total"))  # adapter and head train
    cost: dict[str, Any]  # step_ms, peak_memory_mb, wall_s, ...
    variant_metrics: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    wandb_id: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss ceased to be a number: the scores are then those of chance, whatever they look like."""
        scored = (self.best, self.last)
        return bool(self.cost.get("diverged")) or not all(finite_losses(figures) for figures in scored)

    def to_json(self) -> str:
        """The file's text. Numbers that are not finite (a diverged loss) become null, as JSON has none."""
        return json.dumps(_finite(asdict(self)), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunResult":
        """Read a file's text. Raises ValueError saying what is wrong with it."""
        data = json.loads(text)
        if not isinstance(data, dict):
            raise ValueError("not a JSON object")
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {data.get('schema')!r}, expected {SCHEMA}")
        known = {item.name: item for item in fields(cls)}
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"unknown key {unknown[0]!r}")
        required = (name for name, item in known.items() if item.default is item.default_factory is MISSING)
        result = cls(**dict.fromkeys(required) | {name: data[name] for name in known if name in data})
        result.check()
        return result

    def check(self) -> None:
        """Raise ValueError on a field of the wrong type or without its inner keys."""
        for item in fields(self):
            kinds, value = _types(item.type), getattr(self, item.name)
            if not isinstance(value, kinds):
                raise ValueError(f"{item.name!r} is missing or not of type {kinds[0].__name__}")
            if missing := [key for key in item.metadata.get("keys", ()) if key not in value]:
                raise ValueError(f"{item.name!r} lacks {missing[0]!r}")
        for name in ("best", "last"):
            if self.metric not in getattr(self, name):
                raise ValueError(f"{name!r} lacks the metric {self.metric!r}")


def finite_losses(figures: Mapping[str, Any]) -> bool:
    """Whether the losses of an epoch, as far as it has any, are finite numbers. In a file they are null where not."""
    losses = [figures[name] for name in ("train_loss", "loss") if name in figures]
    return all(isinstance(loss, (int, float)) and math.isfinite(loss) for loss in losses)


def _types(hint: Any) -> tuple[type, ...]:
    """The types of a field's annotation: `dict` and `NoneType` of `dict[str, Any] | None`."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return tuple(typing.get_origin(part) or part for part in parts)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


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
        result.check()
        path = self.path(result.id)
        write_atomic(path, result.to_json())
        return path

    def read(self, id: str) -> RunResult | None:
        """The run `id`; None where there is none, or where its file was unreadable and is now moved aside."""
        path = self.path(id)
        try:
            result = RunResult.from_json(path.read_text(encoding="utf-8"))
            if result.id != id:
                raise ValueError(f"it holds the run {result.id!r}")
        except FileNotFoundError:
            return None
        except ValueError as error:  # broken JSON and broken UTF-8 are ValueErrors too
            self._move_aside(path, str(error))
            return None
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror or error}; check the permissions of --results_dir"
            ) from error
        return result

    def done(self, id: str) -> bool:
        """Whether the run `id` has a whole, readable result."""
        return self.read(id) is not None

    def all(self) -> list[RunResult]:
        """Every readable result, in the order of ids."""
        return [result for path in sorted(self.runs.glob("*.json")) if (result := self.read(path.stem))]

    def _move_aside(self, path: Path, reason: str) -> None:
        try:
            aside = move_aside(path)
            log.warning("result file %s is not usable (%s): moved to %s", path, reason, aside.name)
        except OSError as error:  # a read-only folder: still not counted as done
            log.warning("result file %s is not usable (%s) and cannot be moved: %s", path, reason, error)


def data_names(results: Iterable[RunResult]) -> dict[tuple[str, str], tuple[str, str]]:
    """(source, name) of each run's data -> the one that stands for it: the first name, in order of the alphabet, of
    those that name the same content, as two copies of a folder do."""
    same: dict[tuple[str, str], set[tuple[str, str]]] = {}
    holders: dict[tuple[str, str, str], tuple[str, str]] = {}
    for run in results:
        place = (run.data["source"], run.data["name"])
        own = same.setdefault(place, {place})
        other = same[holders.setdefault((place[0], run.task, str(run.data["hash"])), place)]
        if own is not other:
            own |= other
            same |= dict.fromkeys(own, own)
    return {place: min(places) for place, places in same.items()}
