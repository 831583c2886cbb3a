"""A method's options: the fields of its dataclass as flags, as the values that build it, and as plain data.

Both commands (``variants.check`` and those of ``paper_repro``), recipes, runs and adapter files read options here.
"""

from __future__ import annotations

import argparse
import collections.abc
import dataclasses
import json
import re
import sys
import typing
from collections.abc import Container, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import partial
from typing import Any, TypeVar

from variants.errors import UserError, VariantError
from variants.outside.places import definition, located
from variants.outside.values import Unfit, choices, dataclass_in, from_text, is_switch, read

RESERVED = frozenset({
    *("activation_offload", "adam_eps", "batch_size", "beams", "budget", "clip_model", "cls_dropout"),
    *("combine", "compile", "config", "data_dir", "decode_batch_size", "dino_model", "ema", "epochs", "force"),
    *("gradient_checkpointing", "gradient_clip_val", "guidance", "head_lr", "help", "jobs", "label_smoothing"),
    *("launch", "length_penalty", "linearisation", "logger", "loss_on", "lr", "max_length", "max_new_tokens"),
    *("mnli_init", "model", "model_dropout", "no_repeat_ngram", "only", "pad", "paint_seeds", "paint_steps"),
    *("plan", "precision", "preset", "print_config", "prior_pictures", "prior_weight", "prompt_dropout"),
    *("quantise", "reference", "repeats", "resolution", "results_dir", "rows", "score_epoch", "scores"),
    *("seeds", "select", "shown", "slurm", "snr_gamma", "stack_rates", "stack_seeds", "strengths", "table"),
    *("table_only",),
    *("tasks", "template", "train_embeddings", "trainer", "variant", "version", "wandb", "wandb_artifacts"),
    *("wandb_entity", "wandb_notes", "wandb_project", "wandb_tags", "warmup_ratio", "warmup_steps"),
    *("weight_decay",),
})  # fmt: skip
"""Flags of the project's commands, which no option can share. A test holds it complete."""
V = TypeVar("V")


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        kind: its type.
        default: MISSING where it must be given.
        text: what the docstring's ``Args:`` say of it.
        inner: the options of the dataclass that it holds, whose flags are ``--name.inner``.
    """

    name: str
    kind: Any
    default: Any
    text: str = ""
    inner: tuple[Option, ...] = ()

    def read(self, value: Any, where: str, text: bool = False) -> Any:
        """A value of this option from text or plain data.

        Args:
            where: the option's name in messages.
            text: whether text is of a command line.

        Raises:
            VariantError: it is of another kind.
        """
        if value is self.default or (value is None and self.default is None):
            return value
        try:
            return (from_text if text and isinstance(value, str) else read)(value, self.kind, self.default)
        except Unfit as kind:
            raise VariantError(f"{where} must be {kind}, not {str(value)[:60]!r}") from None
        except (TypeError, ValueError) as error:
            raise VariantError(f"{where}: {located(error)}") from error


def options_of(cls: type) -> dict[str, Option]:
    """The options of a method, by name.

    Raises:
        VariantError: an option's type is not known when the program runs.
    """
    hints, texts = _hints(cls), _described(cls)
    return {f.name: _option(f, hints[f.name], texts.get(f.name, "")) for f in dataclasses.fields(cls) if f.init}


def _option(field: dataclasses.Field, kind: Any, text: str) -> Option:
    try:
        default = field.default if field.default_factory is MISSING else field.default_factory()
    except Exception as error:
        raise VariantError(f"the default of {field.name} cannot be made: {located(error)}") from error
    inner: tuple[Option, ...] = ()
    if inside := dataclass_in(kind):
        hints = typing.get_type_hints(inside)
        inner = tuple(
            dataclasses.replace(_option(f, hints[f.name], ""), name=f"{field.name}.{f.name}")
            for f in dataclasses.fields(inside)
            if f.init
        )
    return Option(field.name, kind, default, text, inner)


def _hints(cls: type) -> dict[str, Any]:
    """The types of a class's fields, those included that it imports for type checkers alone where they are common."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names = vars(typing) | vars(collections.abc) | vars(sys.modules.get(base.__module__, typing))
        for name, kind in vars(base).get("__annotations__", {}).items():
            try:
                found[name] = eval(kind, dict(names), dict(vars(base))) if isinstance(kind, str) else kind
            except Exception as error:
                if name in getattr(cls, "__dataclass_fields__", {}):
                    raise VariantError(
                        f"{definition(base)}: {base.__name__}.{name}: its type {kind!r} is not known when the "
                        f"program runs ({error}): import it outside TYPE_CHECKING"
                    ) from None
    return found


def _described(cls: type) -> dict[str, str]:
    """What the ``Args:`` parts of the docstrings of a class and its bases say of each option."""
    parts = [(base.__doc__ or "").partition("Args:")[2] for base in reversed(cls.__mro__)]
    text = "\n".join(part.split("\n\n")[0] for part in parts)
    found = re.findall(r"^\s+(\w+): (.*?)(?=\n\s+\w+: |\Z)", text, re.M | re.S)
    return {name: " ".join(words.split()).rstrip(".") for name, words in found}


# ---- building a method ---------------------------------------------------------------------------------------------


def build(cls: type[V], values: Mapping[str, Any], flags: bool = False) -> V:
    """The method with these options, given as text or as plain data.

    Args:
        flags: name options as flags, ``--r``.

    Raises:
        VariantError: an option is unknown, missing, of another kind, or the class refuses it.
    """
    known, dash = options_of(cls), "--" if flags else f"{_called(cls)}: "
    if unknown := [name for name in values if name not in known]:
        raise VariantError(f"{_called(cls)} has no option {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    if lacking := [name for name, o in known.items() if o.default is MISSING and name not in values]:
        raise VariantError(f"{cls.__name__} needs --{lacking[0]}: it has no default ({definition(cls)})")
    given = {name: known[name].read(value, f"{dash}{name}") for name, value in values.items()}
    for options in given.get("per_layer", {}).values():  # those of some sites
        options.update({k: known[k].read(value, f"per_layer: {k}") for k, value in options.items() if k in known})
    try:
        return cls(**given)
    except UserError:
        raise
    except Exception as error:
        raise VariantError(f"{cls.__name__} refuses its options: {located(error)}") from error


def _called(cls: type) -> str:
    return getattr(cls, "name", "") or cls.__name__


# ---- flags ---------------------------------------------------------------------------------------------------------


def add_options(parser: Any, cls: type, taken: Container[str] = ()) -> None:
    """Add a flag for each option to an ``argparse`` parser, or to one of jsonargparse.

    A switch is ``--on``, ``--no-on`` or ``--on false``; an option of a dataclass is ``--inner.depth 3``.

    Args:
        taken: names that the parser has already.

    Raises:
        VariantError: an option has the name of a flag of the project's.
    """
    options = options_of(cls)
    if not options:
        return
    for name in options:
        if name in RESERVED or name in taken:
            raise VariantError(
                f"{definition(cls)}: {cls.__name__} cannot have an option {name!r}, as --{name} is a flag of the "
                f"project's: rename it, such as {_called(cls).replace('-', '_')}_{name}"
            )
    group = parser.add_argument_group(f"options of {_called(cls)}")
    for option in options.values():
        for each in option.inner or (option,):
            _add(group, each)


def _add(group: Any, option: Option) -> None:
    settings: dict[str, Any] = {"type": partial(_given, option), "default": argparse.SUPPRESS}
    settings["help"] = f"{option.text} {_default(option.default)}".strip().replace("%", "%%")
    if is_switch(option.kind):
        switch, short = settings | {"nargs": "?", "const": True}, option.name.replace("_", "-")
        group.add_argument(f"--{option.name}", **switch)
        off = dict.fromkeys((f"--no-{short}", f"--no-{option.name}", f"--no_{option.name}"))
        group.add_argument(*off, dest=option.name, action="store_const", const=False, default=argparse.SUPPRESS,
                           help=f"--{option.name} false")  # fmt: skip
        return
    if words := choices(option.kind):
        settings["metavar"] = "{" + ",".join(words) + "}"
    group.add_argument(f"--{option.name}", **settings)


def _given(option: Option, value: Any) -> Any:
    try:
        return None if value is None else option.read(value, f"--{option.name}", text=True)
    except VariantError as error:
        raise UserError(str(error)) from None  # a ValueError would become the parser's own message


def _default(value: Any) -> str:
    """A default in a help text; "" where there is nothing to say of it."""
    if value is MISSING:
        return "(required)"
    if value is None or value is False or value in ("", {}, ()) or dataclasses.is_dataclass(value):
        return ""
    return f"(default: {value:g})" if isinstance(value, float) else f"(default: {getattr(value, 'name', value)})"


def opened(argv: Sequence[str], cls: type) -> list[str]:
    """A command line in which ``--inner '{depth: 3}'`` is ``--inner.depth=3``, for options that hold a dataclass.

    Raises:
        UserError: such an option is no mapping.
    """
    held, words, left = {f"--{o.name}" for o in options_of(cls).values() if o.inner}, [], iter(argv)
    for word in left:
        name, equals, text = word.partition("=")
        if name not in held:
            words.append(word)
            continue
        value = from_text(text if equals else next(left, ""), Any)
        if not isinstance(value, Mapping):
            raise UserError(f"{name} must be a mapping such as {{a: 1}}, not {str(value)[:60]!r}")
        words += [f"{name}.{key}={json.dumps(v) if isinstance(v, (dict, list)) else v}" for key, v in value.items()]
    return words


def given(flags: Any, cls: type) -> dict[str, Any]:
    """The options of a class that parsed flags give, a dataclass's as a mapping.

    Args:
        flags: a mapping, or jsonargparse's namespace.
    """
    found: dict[str, Any] = {}
    for name, option in options_of(cls).items():
        if not option.inner:
            value = flags.get(name, MISSING)
            if value is not MISSING and not (value is None and option.default is not None and not _optional(option)):
                found[name] = value
        elif inside := {o.name.partition(".")[2]: flags[o.name] for o in option.inner if o.name in flags}:
            found[name] = inside
    return found


def _optional(option: Option) -> bool:
    return type(None) in typing.get_args(option.kind)
