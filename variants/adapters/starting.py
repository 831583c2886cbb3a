"""An adapter that starts from what another one learnt."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from variants.adapters.adapted_model import AdaptedModel
from variants.adapters.adapter import INITIAL
from variants.errors import VariantError


def begin_as(adapted: AdaptedModel, tensors: Mapping[str, Tensor]) -> None:
    """Where the active adapter's first delta is off the base, let it be that of another one.

    Args:
        tensors: of the other one's file.
    """
    initial = {key.removeprefix(INITIAL): tensor for key, tensor in tensors.items() if key.startswith(INITIAL)}
    if adapted.variant.subtract_initial and initial:
        adapted.subtract(initial)


def start_from(adapted: AdaptedModel, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give the active adapter the values of another one of the same variant: what trains, and what outputs depend on.

    The output layer of a task with another number of classes stays fresh, as in the LoRA authors' scripts. State that
    is for training alone (AdaLoRA's averages) starts anew. Where a first delta is off the base, it is the other's.

    Args:
        tensors: of an adapter file.
        where: its name, for messages.

    Raises:
        VariantError: a tensor that outputs depend on is not there in its shape.
    """
    begin_as(adapted, tensors)
    layers = adapted.adapter.layers.items()
    sizes = {f"{path}.{name}" for path, layer in layers for name in layer.resizable}
    anew = {f"{path}.{name}" for path, layer in layers for name in layer.training_only}
    for name, own in (adapted.adapter.tensors() | adapted.trained()).items():
        if name in anew:
            continue
        if name in tensors and tensors[name].shape == own.shape:
            own.data.copy_(tensors[name])
        elif name in tensors and name in sizes:
            own.data = tensors[name].to(own)
        elif name not in adapted.head:
            raise VariantError(f"cannot start from {where}: {name} is not there in the shape that this run needs")
