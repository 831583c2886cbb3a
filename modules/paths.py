"""Where the project's own files are, in a checkout and where it is installed."""

from __future__ import annotations

from pathlib import Path

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
