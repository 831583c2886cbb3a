"""Adapter files of other tools: PEFT's folders, diffusers', kohya's and loralib's files, written and read."""

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
    component: str | None = None,
) -> AdaptedModel:
    """Put an adapter of any format on ``model``, or beside the others of an attached one.

    Args:
        alpha: LoRA's alpha, which loralib's files do not hold; of no use to the other formats.
        variant: the class, or ``FILE.py:CLASS``, of a folder of ours whose variant is neither built in nor registered.
        quantised: keep the base in few bits, where a folder of ours says that the adapter was trained so.
        component: of diffusers' and kohya's files, which of the pipeline's models this is; None: as its class tells.
    """
    from variants.formats import diffusers, kohya, loralib, peft
    from variants.formats import native as files

    with refusing(f"{path} does not fit this model"):
        kind = recognise(path)
        if kind == "loralib":
            return loralib.load(model, path, alpha=alpha, name=name)
        if kind in ("diffusers", "kohya"):
            return {"diffusers": diffusers, "kohya": kohya}[kind].load(model, path, name=name, component=component)
        if kind == "peft":
            return peft.load(model, path, name=name)
        return files.load(model, path, name=name, variant=variant, quantised=quantised)
