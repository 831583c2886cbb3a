"""What the files of `paper_repro/published` hold (the README there explains the keys), checked when they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

Score = float | list[float]
"""A printed score, or the two of a cell such as matched / mismatched."""


def _name(text: str) -> None:
    if not re.fullmatch(r"\w[\w-]*", text):  # a file brings no code: no module:Class
        raise ValueError("must be a name of letters and digits")


def _number(text: str) -> None:
    if not re.fullmatch(r"\d[\d,]*(\.\d+)?[KMB%]?", text):
        raise ValueError("must be a number as printed, such as 0.35M")


EPOCHS = {
    "best of dev": "best dev epoch",
    "best of a split": "best epoch on a split of dev",
    "last": "last epoch",
    None: "scored epoch not stated",
}
"""Which epoch a row's scores are of, in words."""
HEAD_RATES = {"own": "own head rate", "the adapter's": "the adapter's rate for the head", None: "head rate not stated"}
VariantName = Annotated[str, _name]


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of a printed table, with all that its scores depend on.

    Attributes:
        table: its name as a value of --table, such as lora-2.
        params: trained parameters as printed; None where the table has none.
        mark: "run" by the paper, or "copied" there from earlier work.
        protocol: the recipe whose runs belong to the row; None where we do not have it.
        mnli_init: columns whose runs start from MNLI.
        head_rate: whether the task head has a learning rate of its "own" or "the adapter's".
        epoch: which one is scored: "best of dev" (of the rows that are scored), "best of a split" (of rows that are
            not), or "last"; None, here and above, where it is not stated.
        repeats: the table that has the same scores already.
    """

    benchmark: str
    table: VariantName
    paper: str
    arxiv: str | None
    source: str
    split: str
    statistic: str
    metrics: Mapping[str, str]
    model: str
    method: str
    variant: VariantName | None
    params: str | None
    scores: Mapping[str, Score]
    average: float | None = None
    mark: str
    spread: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    protocol: VariantName | None = "paper"
    mnli_init: tuple[str, ...] = ()
    head_rate: Literal["own", "the adapter's"] | None = None
    epoch: Literal["best of dev", "best of a split", "last"] | None = None
    setup: str | None = None
    repeats: str | None = None
    caution: str | None = None
    remarks: tuple[str, ...] = ()

    @property
    def conditions(self) -> str:
        """What hides under the name of a benchmark: where runs start, the head's rate, which epoch is scored; ""
        where none of it is known of another benchmark than GLUE."""
        if not (self.mnli_init or self.head_rate or self.epoch):
            return "start, head rate and epoch not stated" if self.benchmark == "glue" else ""
        found = []
        if self.benchmark == "glue":
            found.append(f"{len(self.mnli_init)} tasks start from MNLI" if self.mnli_init else "no start from MNLI")
            found.append(HEAD_RATES[self.head_rate])
        return ", ".join([*found, EPOCHS[self.epoch]])


class RankOptions(TypedDict):
    """What a row of a study of ranks is told by (benchmark `rank`)."""

    target: str
    r: int


class _Model(TypedDict):
    config: dict[str, Any]


class Model(_Model, total=False):
    """A model's shapes: `class` of transformers and its `config`; `hub` where the weights are to be had."""

    hub: str
    source: str


@dataclass(frozen=True, kw_only=True)
class PrintedCount:
    """A printed number of parameters: who prints it, and what gives the number."""

    table: str
    model: str
    method: str
    printed: Annotated[str, _number]
    variant: VariantName | None
    options: dict[str, Any] = field(default_factory=dict)
    also: list[str] = field(default_factory=list)
    arithmetic: str = ""
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class ParametersFile:
    """parameters.yaml."""

    benchmark: str
    models: dict[str, Model]
    rows: list[PrintedCount]


class RateRow(TypedDict):
    """A method's best learning rate: how many times it is below LoRA's."""

    variant: VariantName
    below: float


@dataclass(frozen=True, kw_only=True)
class RatesFile:
    """learning_rates.yaml."""

    benchmark: str
    paper: str
    arxiv: str
    source: str
    rows: list[RateRow]
    remarks: tuple[str, ...] = ()


class Setting(TypedDict):
    """A setting of a table of times."""

    batch: int
    length: int
    parameters: str


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """Times of one way in ms, a value for each setting; `slowdown` as printed, in per cent of the first row."""

    method: str
    way: str
    ms: list[float]
    spread: list[float]
    slowdown: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LatencyFile:
    """lora_table1.yaml."""

    benchmark: str
    paper: str
    arxiv: str | None
    source: str
    model: str
    device: str
    statistic: str
    settings: list[Setting]
    rows: list[LatencyRow]
    remarks: tuple[str, ...] = ()
