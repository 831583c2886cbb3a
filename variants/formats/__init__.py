"""Adapter files of other tools: PEFT's folders and loralib's state dicts, written and read."""

from __future__ import annotations

import os

from torch import nn

from variants.adapters.adapted_model import AdaptedModel
from variants.formats.boundary import refusing
from variants.formats.common import recognise
from variants.variant import BaseVariant


def load(
    model: nn.Module | AdaptedModel,
    path: str | os.PathLike,
    *,
    name: str = "default",
    alpha: float | None = None,
    variant: str | type[BaseVariant] | None = None,
    quantised: bool = False,
) -> AdaptedModel:
    """Put an adapter of any format on ``model``, or beside the others of an attached one.

    Args:
        alpha: LoRA's alpha, which loralib's files do not hold; of no use to the other formats.
        variant: the class, or ``FILE.py:CLASS``, of a folder of ours whose variant is neither built in nor registered.
        quantised: keep the base in few bits, where a folder of ours says that the adapter was trained so.
    """
    from variants.formats import loralib, peft
    from variants.formats import native as files

    with refusing(f"{path} does not fit this model"):
        kind = recognise(path)
        if kind == "loralib":
            return loralib.load(model, path, alpha=alpha, name=name)
        if kind == "peft":
            return peft.load(model, path, name=name)
        return files.load(model, path, name=name, variant=variant, quantised=quantised)
