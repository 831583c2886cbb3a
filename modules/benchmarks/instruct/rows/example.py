"""A row of instruction data, in whichever form it was written."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

Message = tuple[str, str]
"""(role, text); roles are system, user and assistant."""


@dataclass(frozen=True)
class Example:
    """What goes in, and what is to be said.

    Attributes:
        messages: what goes in. Empty for rows of plain text, and a single user's text where nothing is templated.
        response: what is to be said: the last assistant message, the completion, the output.
        options: the texts among which scores of choice choose; none where there are none.
        answer: the short answer that scores compare with (an option's text, a number); "" where a row gives none.
        part: of a task whose scores are given part by part: the set that the row is from.
        templated: whether the tokenizer's chat template is put around the messages; else they are taken as they are.
    """

    messages: tuple[Message, ...]
    response: str
    options: tuple[str, ...] = ()
    answer: str = ""
    part: str = ""
    templated: bool = True

    @property
    def prompt(self) -> str:
        """The last text that goes in."""
        return self.messages[-1][1] if self.messages else ""

    def written(self) -> str:
        """As one line, to be read by :meth:`read`."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def read(cls, line: str) -> Example:
        """From such a line."""
        values = json.loads(line)
        pairs = tuple((role, text) for role, text in values.pop("messages"))
        return cls(messages=pairs, **values | {"options": tuple(values["options"])})
