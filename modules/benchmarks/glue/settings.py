"""The training settings of GLUE."""

from __future__ import annotations

from dataclasses import dataclass

from modules.benchmarks.settings import setting
from modules.benchmarks.text.settings import TextSettings


@dataclass(frozen=True, kw_only=True)
class GlueSettings(TextSettings):
    """Beside those of texts: on which rows the best epoch, and in a comparison the best setting, is chosen."""

    select: str = setting(
        "which rows choose the best epoch: dev (the rows that are scored) or split (half of dev; the other half is "
        "scored)",
        "dev",
        choices=("dev", "split"),
    )
