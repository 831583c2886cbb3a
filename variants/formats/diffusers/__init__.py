"""diffusers' file of a pipeline's LoRAs, written and read."""

from __future__ import annotations

from variants.formats.diffusers.block_weights import block_weights
from variants.formats.diffusers.reading import load, read
from variants.formats.diffusers.writing import FILE, METADATA, save

__all__ = ["FILE", "METADATA", "block_weights", "load", "read", "save"]
