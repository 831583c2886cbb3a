"""PEFT's per-map options: keys that are regular expressions over module names, from files that anybody wrote."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from variants.errors import VariantError, shown

_LONGEST, _REPEATS, _GROUPS, _SECONDS = 512, 4, 4, 5.0
_PLAIN = re.compile(r"\^?(?:\w|\\?\.|\\?-)+")
_ESCAPED = re.compile(r"\\.|\[\^?\]?[^\]]*\]")


class Patterns:
    """PEFT's rule: the value of the first key that, as a regular expression, matches the end of a module's name.

    A key may take time that doubles with every character of the name, so keys are bounded: no repeated group (of
    which nested repetitions are made), few repetitions and alternatives, and a few seconds for all names together.
    Keys that are names, as PEFT and this project write them, are taken as they are.

    Args:
        where: the option, for messages.
        values: key -> value.

    Raises:
        VariantError: a key is not, or not such, a regular expression.
    """

    def __init__(self, where: str, values: Mapping[str, Any] | None) -> None:
        self.where = where
        self.values = [(self._compiled(key), value) for key, value in (values or {}).items()]
        self.end = time.monotonic() + _SECONDS

    def _compiled(self, key: str) -> re.Pattern[str]:
        if not _PLAIN.fullmatch(key):
            rest = _ESCAPED.sub("x", key)
            repeats = len(re.findall(r"[*+?{]", rest.replace("(?:", "(")))
            if len(key) > _LONGEST or re.search(r"\)[*+{]", rest) or repeats > _REPEATS or rest.count("(") > _GROUPS:
                raise VariantError(
                    f"{self.where}: the pattern {shown(key)} may take forever to match: name the modules, or use at "
                    f"most {_REPEATS} repetitions and {_GROUPS} groups, none repeated"
                )
        try:
            return re.compile(rf"(.*\.)?({key})$")
        except (re.error, RecursionError, OverflowError) as error:
            raise VariantError(f"{self.where}: {shown(key)} is no regular expression: {error}") from error

    def at(self, path: str, default: Any) -> Any:
        """The value for the module ``path``, or ``default``.

        Raises:
            VariantError: the patterns take too long.
        """
        for pattern, value in self.values:
            if time.monotonic() > self.end:
                raise VariantError(f"{self.where}: its patterns take too long to match: name the modules")
            if pattern.match(path):
                return value
        return default
