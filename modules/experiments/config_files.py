"""`--config FILE`: flags from a YAML file, which stand in the command line where the file is named."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from modules.documents import check_yaml, read_yaml
from variants.errors import UserError

LISTS = ("tasks", "seeds")
"""Flags that take a comma list."""
LONGEST = 10_000
"""Characters of a flag."""


def expanded(argv: Sequence[str]) -> list[str]:
    """A command line with the flags of its --config files in place of these.

    Raises:
        UserError: a file cannot be read, or what it holds are no flags; a value cannot be one.
    """
    words = list(_words(argv))
    for word in words:
        value = word.partition("=")[2] if word.startswith("--") else word
        if len(word) > LONGEST or "\0" in word:
            raise UserError(f"{word[:40]!r}... is no flag: it is too long, or holds the character NUL")
        check_yaml(value, word.partition("=")[0])  # values of some flags are read as YAML
    return words


def _words(argv: Sequence[str]) -> Iterator[str]:
    words = iter(argv)
    for word in words:
        name, equals, path = word.partition("=")
        if name != "--config":
            yield word
            continue
        path = path if equals else next(words, "")
        if not path:
            raise UserError("--config needs a file")
        yield from flags_of(path)


def flags_of(path: str) -> list[str]:
    """The flags in a file, as words of a command line. Raises UserError naming the file and the place."""
    try:
        content = read_yaml(os.path.expanduser(path))
    except UserError as error:
        raise UserError(f"--config {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold flags and values, such as 'variant: lora'")
    words = []
    for name, value in content.items():
        if not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name) or name in ("config", "help", "h"):
            raise UserError(f"--config {path}: {name[:60]!r} is no flag that a file can give")
        if name == "variant" and ":" in str(value):
            raise UserError(f"a file brings no code: name it yourself, --variant {value}, not in --config {path}")
        if name in ("trainer", "slurm") and isinstance(value, dict):
            words += [f"--{name}.{key}={_text(item)}" for key, item in value.items() if item is not None]
        elif value is not None:
            words.append(f"--{name}={_text(value, name in LISTS)}")
    return words


def _text(value: Any, comma_list: bool = False) -> str:
    """A value as the command line has it."""
    if isinstance(value, str):
        return value
    if comma_list and isinstance(value, list):
        return ",".join(map(str, value))
    return json.dumps(value)
