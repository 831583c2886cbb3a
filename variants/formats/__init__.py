"""Adapter files of other tools: PEFT's folders and loralib's state dicts, written and read."""

from __future__ import annotations

import os

from torch import nn

from variants.adapters.adapted_model import AdaptedModel
from variants.formats.common import recognise


def load(
    model: nn.Module | AdaptedModel, path: str | os.PathLike, *, name: str = "default", alpha: float | None = None
) -> AdaptedModel:
    """Put an adapter of any format on ``model``, or beside the others of an attached one.

    Args:
        alpha: LoRA's alpha, which loralib's files do not hold; of no use to the other formats.
    """
    from variants.formats import loralib, peft
    from variants.formats import native as files

    kind = recognise(path)
    if kind == "loralib":
        return loralib.load(model, path, alpha=alpha, name=name)
    return (peft if kind == "peft" else files).load(model, path, name=name)
