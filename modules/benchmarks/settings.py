"""Training settings: for each its type, default, help text and range, in one place.

A benchmark has a dataclass of its settings, derived from `TrainingSettings`. Recipes, flags and result files hold
settings as a dictionary of those that were given, and a run's id hashes that dictionary as it stands. Whoever uses a
setting reads it from the dataclass, `TrainingSettings.of(dictionary)`, which fills in the defaults.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from functools import lru_cache
from typing import Any

from variants.errors import UserError
from variants.schema import check_keys
from variants.schemes import SCHEMES


@dataclass(frozen=True)
class Setting:
    """What is known of one training setting.

    Attributes:
        kind: int, float or str.
        help: for `--help`.
        default: where neither recipe nor flags give it; MISSING where one of them must.
        zero: whether a number may be 0; none may be negative.
        most: the largest number.
        choices: the words that a text may be; empty for any text.
        many: whether it may be several of them, as a comma list.
        flag: whether recipes and flags may give it.
        after_training: whether it says only what is scored once training has ended, and how: neither training nor the
            figures of its epochs depend on it.
    """

    kind: type
    help: str
    default: Any = MISSING
    zero: bool = False
    most: float = 1e9
    choices: tuple[str, ...] = ()
    many: bool = False
    flag: bool = True
    after_training: bool = False

    @property
    def described(self) -> str:
        """The help text, with the default where there is one that a number or a word can state."""
        return self.help if self.default in (MISSING, None) else f"{self.help} (default: {self.default:{self._format}})"

    @property
    def _format(self) -> str:
        return "g" if self.kind is float else ""

    def check(self, name: str, value: Any, where: str) -> None:
        """Raise UserError, naming `where` and the setting, on a value of the wrong type or out of range."""
        if self.kind is str:
            words = str(value).split(",") if self.many else [value]
            if not isinstance(value, str) or (self.choices and not set(words) <= set(self.choices)):
                form = "a comma list of" if self.many else "one of"
                raise UserError(f"{where}: {name} must be {form} {', '.join(self.choices)}, got {value!r}")
            return
        fits = isinstance(value, (int, float) if self.kind is float else int) and not isinstance(value, bool)
        if not fits or not 0 <= value <= self.most or (value == 0 and not self.zero):
            hint = "; YAML reads 5e-4 as text, write 5.0e-4" if isinstance(value, str) else ""
            raise UserError(
                f"{where}: {name} must be a {'non-negative' if self.zero else 'positive'} "
                f"{'number' if self.kind is float else 'whole number'}"
                f"{f' of at most {self.most:g}' if fits and not value <= self.most else ''}, got {value!r}{hint}"
            )


def setting(
    help: str,
    default: Any = MISSING,
    *,
    zero: bool = False,
    most: float = 1e9,
    choices: Iterable[str] = (),
    many: bool = False,
    flag: bool = True,
    after_training: bool = False,
) -> Any:
    """A field of a settings dataclass; the arguments are those of `Setting`, whose `kind` is the field's type."""
    metadata = {"help": help, "zero": zero, "most": most, "choices": tuple(choices), "many": many, "flag": flag}
    return field(default=default, metadata=metadata | {"after_training": after_training})


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The settings that every benchmark has. A value of None means what its help text says."""

    lr: float = setting("learning rate of the adapter", most=1000)
    batch_size: int = setting("rows per optimizer step, over all devices", most=1e6)
    epochs: int = setting("passes over the training rows", most=1e5)
    max_length: int = setting("tokens; longer rows are cut", most=1e6)
    warmup_ratio: float = setting("share of all steps with a rising learning rate", 0.0, zero=True, most=1)
    warmup_steps: int | None = setting("the same in steps", None, zero=True)
    weight_decay: float = setting("of AdamW", 0.0, zero=True, most=1000)
    adam_eps: float = setting("epsilon of AdamW", 1e-8, most=1)
    gradient_clip_val: float = setting("largest norm of the gradient; 0 for none", 0.0, zero=True)
    pad: str = setting(
        "bucket (as little padding as the model can do with) or max (every row to max_length)",
        "bucket",
        choices=("bucket", "max"),
    )
    quantise: str | None = setting(
        "keep the frozen linear maps in few bits (QLoRA; pip install 'lora-variants[quant]')", None, choices=SCHEMES
    )
    precision: str = setting("Lightning's; --trainer.precision sets it", "32-true", flag=False)

    @classmethod
    def of(cls, training: Mapping[str, Any]) -> TrainingSettings:
        """The settings of a run from the dictionary that its configuration holds.

        Raises:
            UserError: one is unknown, out of range, or lacking.
        """
        every = described(cls)
        cls._check(training, "settings", every)
        if lacking := [name for name in every if every[name].default is MISSING and name not in training]:
            raise UserError(f"settings: {lacking[0]!r} is missing: give it by --{lacking[0]}, or in the recipe")
        return cls(**training)

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of an epoch of so many training rows."""
        return math.ceil(rows / self.batch_size)

    @classmethod
    def of_training(cls, training: Mapping[str, Any]) -> dict[str, Any]:
        """Those of a run's settings that decide what it learns: two runs that share them may differ in what is scored
        after training."""
        every = described(cls)
        return {name: value for name, value in training.items() if not every[name].after_training}

    @classmethod
    def flags(cls) -> dict[str, Setting]:
        """By name, the settings that recipes and flags may give."""
        return {name: known for name, known in described(cls).items() if known.flag}

    @classmethod
    def check(cls, values: Any, where: str) -> None:
        """Raise UserError, naming `where` and the key, on a setting from a recipe or flag that is unknown or out of
        range."""
        cls._check(values, where, cls.flags())

    @staticmethod
    def _check(values: Any, where: str, known: Mapping[str, Setting]) -> None:
        check_keys(values, known, where)
        for name, value in values.items():
            known[name].check(name, value, where)


@lru_cache
def described(cls: type[TrainingSettings]) -> dict[str, Setting]:
    """By name, every setting of a settings dataclass."""
    hints = typing.get_type_hints(cls)
    return {f.name: Setting(_kind(hints[f.name]), default=f.default, **f.metadata) for f in dataclasses.fields(cls)}


def _kind(hint: Any) -> type:
    """`int` from `int` or `int | None`."""
    return next((kind for kind in typing.get_args(hint) if kind is not type(None)), hint)
