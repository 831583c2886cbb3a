"""The frozen backbone with a trained task head: what an adapter must beat."""

from __future__ import annotations

from dataclasses import dataclass

from variants.registry import register
from variants.variant import BaseVariant


@register("head")
@dataclass
class Head(BaseVariant):
    """Head only: the backbone stays frozen and the task head alone trains."""
