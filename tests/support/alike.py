"""Passes for a CUDA graph: their gradients, and what is made for all layers at once in them."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.passes import IDS
from variants.acceleration import accelerated
from variants.acceleration.basics.policy import for_graph
from variants.adapters.adapted_model import AdaptedModel


class Operators(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """One more."""
        self.count += 1
        return function(*args, **(kwargs or {}))


def overridden(handle: AdaptedModel) -> set[str]:
    return {name for layer in handle.layers for name in ("low_rank", "delta_weight") if name in vars(layer)}


def gradients(handle: AdaptedModel, graph: bool) -> tuple[dict[str, Tensor], set[str], int]:
    """(the gradients of a pass, what was made for all layers at once, operators of the pass)."""
    with for_graph(graph), accelerated(handle), Operators() as operators:
        made = overridden(handle)
        handle.model(input_ids=IDS).logits.float().square().mean().backward()
    found = {name: p.grad.clone() for name, p in handle.trained().items() if p.grad is not None}
    for parameter in handle.trained().values():
        parameter.grad = None
    return found, made, operators.count


def alone(handle: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Its gradients where each layer makes its own update."""
    with monkeypatch.context() as patch:
        patch.setattr("variants.acceleration.passes.made_together", lambda handle: ())
        return gradients(handle, True)[0]
