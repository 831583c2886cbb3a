"""What a person says of their instruction data: which files or data set, and which rows are for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modules.benchmarks.custom.description import Place, check_known, share, whole
from variants.errors import UserError

FLAGS = {
    "data": "your own data in place of a task: JSON, JSONL or Parquet file; folder with train, dev and test files; or "
    "Hub id, id:configuration. Rows: messages; prompt, completion; instruction, input, output; question, answer; or "
    "text",
    "dev": "file of the dev set (default: a file or split called dev, validation or val, else rows cut from --data)",
    "dev_share": "share of the rows that is cut (default: 0.1)",
    "split_seed": "decides which rows are cut, and is part of the run (default: 0)",
    "test": "file of the test set, scored once with the best epoch (default: a file or split called test, else none)",
}
"""Flags of the command: name -> help."""


@dataclass(frozen=True)
class Description(Place):
    """The flags, read."""

    dev: str | None = None
    test: str | None = None
    dev_share: float = 0.1
    split_seed: int = 0

    @classmethod
    def of(cls, given: Mapping[str, str]) -> Description:
        """From flags. Raises UserError where one is unknown or out of range."""
        check_known(given, FLAGS)
        if not given.get("data"):
            raise UserError(f"--{next(iter(given))} belongs to your own data: name them by --data")
        return cls(
            str(given["data"]), given.get("dev"), given.get("test"), share(given, "dev_share", 0.1),
            whole(given, "split_seed", 0),
        )  # fmt: skip
