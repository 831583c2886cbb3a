"""kohya's file, which most of the community's tools read: written and read."""

from __future__ import annotations

from variants.formats.kohya.reading import components, load
from variants.formats.kohya.writing import save

__all__ = ["components", "load", "save"]
