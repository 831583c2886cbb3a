"""The interface of a logger: one run, from its first step to its end. What a logger cannot show it leaves out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, Path] = MappingProxyType({})
"""No pictures."""


class RunLog:
    """A run in one logger.

    Attributes:
        title: of the logger, for messages.
        id: the run's in W&B; None elsewhere.
    """

    title = ""
    id: str | None = None

    def log(self, figures: Mapping[str, float], step: int, pictures: Mapping[str, Path] = NONE) -> None:
        """A row of figures, after ``step`` optimizer steps, with PNG files by their keys."""
        raise NotImplementedError

    def table(self, key: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of values and texts."""

    def adapter(self, folder: Path, name: str, alias: str, facts: Mapping[str, Any]) -> None:
        """The files of an adapter, as one thing of that name.

        Args:
            alias: best or last.
            facts: what it belongs to.
        """

    def alert(self, title: str, text: str, tag: str) -> None:
        """Call the person; the run has the tag from now on."""

    def finish(self, summary: Mapping[str, Any], failed: bool) -> None:
        """The figures of the whole run; nothing comes after them.

        Args:
            failed: whether it has diverged or did not come to its end.
        """
        raise NotImplementedError


class RunLogs:
    """A run in all its loggers. One that fails is named once and left out from then on: the run goes on."""

    def __init__(self, logs: Sequence[RunLog] = ()) -> None:
        self.logs = list(logs)

    def __bool__(self) -> bool:
        return bool(self.logs)

    @property
    def id(self) -> str | None:
        """The run's in W&B."""
        return next((log.id for log in self.logs if log.id), None)

    def each(self, what: str, *arguments: Any) -> None:
        """Call a method of `RunLog`, by its name, of every logger."""
        for log in list(self.logs):
            try:
                getattr(log, what)(*arguments)
            except Exception as error:  # whatever is wrong with it: the run matters, the dashboard does not
                self.logs.remove(log)
                warnings.warn(f"{log.title} stopped working, the run goes on: {error}", stacklevel=3)
