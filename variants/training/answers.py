"""What an inventor's functions answer, checked and made whole: optimizer groups, optimizers and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from variants.errors import VariantError, first_line
from variants.layer import AdapterLayer
from variants.variant import BaseVariant


def completed_groups(
    variant: BaseVariant,
    groups: Iterable[Mapping[str, Any]],
    trained: Mapping[str, nn.Parameter],
    defaults: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Optimizer groups with the run's settings where they have none of their own; each trained tensor is in one.

    Args:
        groups: of ``variant.param_groups``.
        trained: what the variant's layers train, by name.
        defaults: ``lr`` and such.

    Raises:
        VariantError: a tensor is in no group, in two, or is not trained by the layers.
    """
    function = f"{type(variant).__name__}.param_groups"
    try:
        whole = [{**defaults, **group, "params": list(group["params"])} for group in groups]
    except (KeyError, TypeError):
        raise VariantError(f'{function} must give a list of groups such as {{"params": [...], "lr": lr}}') from None
    names = {id(parameter): name for name, parameter in trained.items()}
    seen: set[int] = set()
    for parameter in (p for group in whole for p in group["params"]):
        if id(parameter) in seen:
            raise VariantError(f"{function} has {names.get(id(parameter), 'a tensor')} twice")
        if id(parameter) not in names:
            raise VariantError(f"{function} has a tensor that no layer trains, of shape {tuple(parameter.shape)}")
        seen.add(id(parameter))
    if left := [name for key, name in names.items() if key not in seen]:
        raise VariantError(f"{function} leaves out {left[0]}: put it into a group, or make it a buffer")
    return whole


def own_optimizer(variant: BaseVariant, groups: list[dict[str, Any]]) -> torch.optim.Optimizer | None:
    """The variant's optimizer over groups, or None for the trainer's.

    Raises:
        VariantError: what it gives is something else.
    """
    found = variant.optimizer(groups)
    if found is None or isinstance(found, torch.optim.Optimizer):
        return found
    raise VariantError(
        f"{type(variant).__name__}.optimizer gives {type(found).__name__}, no torch.optim.Optimizer: return one over "
        "the groups, or None for AdamW"
    )


def figures(variant: BaseVariant, layers: Sequence[AdapterLayer]) -> tuple[dict[str, float], list[str]]:
    """(the variant's figures that are numbers, what is wrong with the others).

    Training has been done when they are asked for: no mistake in them may cost its results.
    """
    function = f"{type(variant).__name__}.metrics"
    try:
        found = dict(variant.metrics(layers) or {})
    except Exception as error:
        return {}, [f"{function} fails: {first_line(error)}"]
    numbers, wrong = {}, []
    for key, value in found.items():
        number = _number(value)
        if number is None:
            shape = getattr(value, "shape", None)
            kind = type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
            wrong.append(f"{function}: {key!r} is no number but {kind}")
        else:
            numbers[str(key)] = number
    return numbers, wrong


def _number(value: Any) -> float | None:
    """A Python number of one, or of an array or tensor of one value; None of anything else."""
    try:
        value = value.item() if hasattr(value, "item") else value
    except (RuntimeError, TypeError, ValueError):  # of many values
        return None
    return value if isinstance(value, (bool, int, float)) else None
