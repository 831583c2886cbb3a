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
ACCELERATION = (PROJECT / "variants" / "acceleration", PROJECT / "modules" / "acceleration")
"""The folders that make everything fast, and may be deleted."""


def has_acceleration() -> bool:
    """Whether both folders of `ACCELERATION` are there.

    Files are looked for, not modules: in a copy of an installed checkout Python would find those of the checkout.
    """
    return all((folder / "__init__.py").is_file() for folder in ACCELERATION)


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
