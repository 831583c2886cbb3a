"""Scripts that rebuild the papers' tables, and the published figures they are compared with."""

from pathlib import Path

PUBLISHED = Path(__file__).parent / "published"
"""Folder of the published figures, one YAML file per table (read by `modules.reports.published`)."""
