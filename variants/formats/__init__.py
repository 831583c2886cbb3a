"""Adapter files of other tools: PEFT's folders and loralib's state dicts, written and read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from variants.adapted import Adapted
from variants.variant import BaseVariant, VariantError

FORMATS = ("ours", "peft", "loralib")


def recognise(path: str | os.PathLike) -> str:
    """Which of :data:`FORMATS` a path holds, told by its files.

    Raises:
        VariantError: it is none of them.
    """
    path = Path(path)
    if (path / "adapter.json").is_file():
        return "ours"
    if (path / "adapter_config.json").is_file():
        return "peft"
    if path.is_file():
        return "loralib"
    raise VariantError(
        f"{path} is no adapter: neither a folder with adapter.json (ours) or adapter_config.json (PEFT) "
        "nor a file (loralib's state dict)"
    )


def is_stand_in(model: nn.Module) -> bool:
    """Whether ``model`` is made up of an adapter file's own shapes (:func:`variants.formats.base.stand_in`)."""
    return getattr(model, "is_stand_in", False)


def load(
    model: nn.Module | Adapted, path: str | os.PathLike, *, name: str = "default", alpha: float | None = None
) -> Adapted:
    """Put an adapter of any format on ``model``, or beside the others of an attached one.

    Args:
        alpha: LoRA's alpha, which loralib's files do not hold; of no use to the other formats.
    """
    from variants import files
    from variants.formats import loralib, peft

    kind = recognise(path)
    if kind == "loralib":
        return loralib.load(model, path, alpha=alpha, name=name)
    return (peft if kind == "peft" else files).load(model, path, name=name)


def install(
    model: nn.Module | Adapted, name: str, variant: BaseVariant, tensors: dict[str, Tensor], head: Iterable[str]
) -> Adapted:
    """Build ``variant`` and fill it with tensors that another tool trained.

    Args:
        tensors: by the names of :meth:`Adapted.state_dict`; a part of the head that they lack stays the base model's.
        head: names of the model's own parameters among them.

    Raises:
        VariantError: a tensor has no place in the model, or does not fit it.
    """
    if isinstance(model, Adapted):
        adapted = model
        if unknown := [key for key in head if key not in adapted.head]:
            raise VariantError(f"the file trains {unknown[0]}, which is not part of this model's head")
    else:
        adapted = Adapted(model, list(head))
    with adapted.adding(name, variant):
        own = adapted.state_dict()
        adapted.load_state_dict({key: own[key] for key in adapted.adapter.in_place} | tensors)
    return adapted
