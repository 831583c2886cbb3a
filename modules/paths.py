"""Where the project's files are, in a checkout and where it is installed."""

from __future__ import annotations

from pathlib import Path

from variants.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
"""The checkout, or the folder that the packages are installed in."""
CONFIGS = PROJECT / "configs"
"""Recipes and comparisons."""
PUBLISHED = PROJECT / "paper_repro" / "published"
"""The papers' figures."""


def checkout(need: str) -> Path:
    """The project's folder, for what an installed copy does not have, or must not change.

    Args:
        need: the beginning of the error's sentence: what needs a checkout, and what to do without.

    Raises:
        UserError: the project runs from an installed copy.
    """
    if not (PROJECT / "pyproject.toml").is_file():
        raise UserError(f"{need} (this is the installed copy in {PROJECT})")
    return PROJECT
