"""How every command reads its words: one parser, one style of help, and mistakes in one line with their mend.

Words may be written with hyphens or underscores (``--batch-size`` is ``--batch_size``). Neither torch nor anything
else that takes time is imported here.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from variants.errors import UserError

ALIASES = {
    "bs": "batch_size",
    "dataset": "data_dir",
    "learning_rate": "lr",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_r": "r",
    "max_epochs": "epochs",
    "max_seq_length": "max_length",
    "method": "variant",
    "model_name_or_path": "model",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "output_dir": "results_dir",
    "per_device_train_batch_size": "batch_size",
    "print_config": "plan",
    "rank": "r",
    "seed": "seeds",
    "target_modules": "target",
    "task": "tasks",
    "task_name": "tasks",
    "wd": "weight_decay",
}
"""Names that other projects give to flags of ours: what is suggested where one of them is not known."""

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "dict": "names and values",
}
"""Types of values, in words."""


def canonical(words: Sequence[str]) -> list[str]:
    """A command line with the names of flags as they are declared: ``--batch-size=8`` is ``--batch_size=8``."""
    found: list[str] = []
    for position, word in enumerate(words):
        if word == "--":
            return [*found, *words[position:]]
        name, equals, value = word.partition("=")
        if re.match(r"--[A-Za-z]", name):
            word = "--" + name[2:].replace("-", "_") + equals + value
        found.append(word)
    return found


def unknown_option(name: str, known: Iterable[str]) -> str:
    """The message about a flag that is not there, with those that may be meant.

    Args:
        name: without its dashes.
        known: names of the flags that there are.
    """
    known = list(dict.fromkeys(known))
    if (meant := ALIASES.get(name)) in known:
        return f"unknown option --{name}; did you mean --{meant}?"
    near = difflib.get_close_matches(name, known, n=3)
    return f"unknown option --{name}" + (f"; did you mean --{', --'.join(near)}?" if near else "; --help lists them")


def version() -> str:
    """Such as ``lora-variants 0.1.0``."""
    from importlib import metadata

    try:
        return f"lora-variants {metadata.version('lora-variants')}"
    except metadata.PackageNotFoundError:
        return "lora-variants, not installed"


class ShowVersion(argparse.Action):
    """``--version``: print it, and end."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, 0, default=argparse.SUPPRESS, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print the version, and end."""
        print(version())
        parser.exit()


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in which a flag stands once, with its value; descriptions and examples keep their lines."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=28, **options)

    def _format_usage(self, usage: Any, actions: Iterable[argparse.Action], groups: Any, prefix: Any) -> str:
        words = [self._format_args(action, action.dest.upper()) for action in actions if not action.option_strings]
        needed = [f"--{action.dest} {action.dest.upper()}" for action in actions
                  if action.option_strings and action.required]  # fmt: skip
        return f"usage: {usage or ' '.join([self._prog, *words, *needed, '[options]'])}\n\n"

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        names = [name for name in action.option_strings if not name.endswith("+")]
        hyphens = {name for name in names if "-" in name[2:]}
        names = [name for name in names if not any(name[2:] == other[2:].replace("-", "_") for other in hyphens)]
        if action.nargs == 0 or (action.nargs == "?" and action.const is True):
            return ", ".join(names)
        return f"{', '.join(names)} {self._format_args(action, action.dest.rpartition('.')[2].upper())}"

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.metavar is None and action.choices:
            return "{" + ",".join(map(str, action.choices)) + "}"
        return super()._format_args(action, default_metavar)


class Parser(argparse.ArgumentParser):
    """The parser of a command.

    Args:
        description: of the command, with examples; ``: code marks are left out.
        options: argparse's.
    """

    def __init__(self, description: str, **options: Any) -> None:
        options = {"formatter_class": HelpFormatter, "allow_abbrev": False} | options
        super().__init__(description=description.replace("``", ""), **options)
        self.add_argument("--version", action=ShowVersion)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        """As argparse's.

        Raises:
            UserError: a mistake, in one line.
        """
        words = canonical(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--") if "--" in words else None]:  # before what is missing is named
            name = word.partition("=")[0]
            if re.fullmatch(r"--[A-Za-z]\S*", name) and name[2:] not in self.names():
                raise UserError(unknown_option(name[2:], self.names()))
        found, rest = self.parse_known_args(words, namespace)
        if rest:
            raise UserError(f"unexpected word {rest[0]!r}; --help says what the command takes")
        return found

    def names(self) -> list[str]:
        """The flags' names, without dashes."""
        return [name[2:] for action in self._actions for name in action.option_strings if name.startswith("--")]

    def error(self, message: str) -> NoReturn:
        """A mistake is one line. Raises UserError."""
        raise UserError(in_words(message))


def in_words(message: str) -> str:
    """A message of argparse's in the words of the command line."""
    if not (parts := re.match(r"argument (?P<flag>\S+?)(?:/\S+)?: (?P<what>.*)", message, re.S)):
        needed = re.match(r"the following arguments are required: (.*)", message)
        return f"{needed[1]} is missing; --help says what the command takes" if needed else message
    flag, what = parts["flag"], parts["what"]
    if choice := re.match(r"invalid choice: (.*) \(choose from (.*)\)", what):
        return f"{flag} must be one of {choice[2].replace(chr(39), '')}, not {choice[1]}"
    if value := re.match(r"invalid (\w+) value: (.*)", what):
        return f"{flag} must be {KINDS.get(value[1], value[1])}, not {value[2]}"
    if what == "expected one argument":
        return f"{flag} needs a value"
    return f"{flag} {what}" if what.startswith("must ") else f"{flag}: {what}"
