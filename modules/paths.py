"""Where the project's own files are, in a checkout and where it is installed."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
"""The checkout, or the folder that the packages are installed in."""
CONFIGS = PROJECT / "configs"
"""Recipes and comparisons."""
PUBLISHED = PROJECT / "paper_repro" / "published"
"""The papers' figures."""
