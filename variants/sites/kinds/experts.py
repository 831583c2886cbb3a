"""Experts that transformers keeps as one 3D parameter, seen as the linear maps that they are.

Their module multiplies by slices of its parameter, so no hook on a module sees it. `show` gives that module a child
for each expert with a map for each of its matrices, which reads its slice and owns nothing: names of base parameters
stay as they are. As long as one of them is adapted the module computes expert by expert, through these maps; else as
before. What there is to compute it says by attributes that transformers gives to every such class
(``transformers.integrations.moe``).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FACTS = ("has_gate", "has_bias", "is_transposed", "has_post_expert_norm")
_NAME = "expert_by_expert"
"""Of this way to compute, among those that transformers chooses from."""


class ExpertMap(nn.Module):
    """One matrix of one expert: a slice of a parameter of the experts' module, seen as (out, in)."""

    def __init__(self, experts: nn.Module, name: str, index: int) -> None:
        super().__init__()
        self.__dict__["experts"] = experts  # no child: it stands above
        self.name, self.index = name, index

    @property
    def parameter(self) -> nn.Parameter:
        """Of all experts, (experts, ...)."""
        return getattr(self.experts, self.name)

    @property
    def weight(self) -> Tensor:
        """(out_features, in_features), a view."""
        matrix = self.parameter[self.index]
        return matrix.t() if self.experts.is_transposed else matrix

    @property
    def bias(self) -> Tensor | None:
        """(out_features), a view."""
        return getattr(self.experts, f"{self.name}_bias")[self.index] if self.experts.has_bias else None

    def __setstate__(self, state: dict) -> None:
        _register()  # in a process that reads a pickle too
        super().__setstate__(state)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, in_features) -> (tokens, out_features)."""
        return F.linear(x, self.weight, self.bias)


def can_show(experts: nn.Module) -> bool:
    """Whether a module is one of transformers' whose experts can be seen as maps: all on one device."""
    return (
        all(hasattr(experts, fact) for fact in _FACTS)
        and hasattr(type(experts).forward, "__wrapped__")
        and all(_is_kept_plain(getattr(experts, name, None)) for name in _names(experts))
        and not getattr(experts, "_is_expert_parallel", False)
    )


def _is_kept_plain(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.ndim == 3 and tensor.is_floating_point() and tensor.dtype.itemsize > 1


def show(model: nn.Module) -> None:
    """Give the experts' modules of a model their maps, where they have none yet; nothing computes otherwise by that."""
    for experts in [module for module in model.modules() if can_show(module) and not is_shown(module)]:
        for index in range(len(experts.down_proj)):
            maps = {name: ExpertMap(experts, name, index) for name in _names(experts)}
            experts.add_module(str(index), nn.ModuleDict(maps))
        _register()
        experts.config, before = copy.copy(experts.config), experts.config._experts_implementation
        experts.config._experts_implementation_internal = _NAME
        experts.implementation_before = before


def is_shown(experts: nn.Module) -> bool:
    """Whether a module has such maps."""
    return isinstance(experts._modules.get("0"), nn.ModuleDict) and can_show(experts)


def without_number(path: str) -> str:
    """The name of an expert's map without the expert's number: that of its parameter."""
    return re.sub(r"\.\d+(?=\.\w+$)", "", path)


def _names(experts: nn.Module) -> tuple[str, str]:
    return ("gate_up_proj" if experts.has_gate else "up_proj"), "down_proj"


def _maps(experts: nn.Module) -> Iterator[nn.ModuleDict]:
    return (experts._modules[str(index)] for index in range(len(experts.down_proj)))


def _register() -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    ALL_EXPERTS_FUNCTIONS.register(_NAME, _expert_by_expert)


def _expert_by_expert(experts: nn.Module, hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
    """The experts' forward function.

    Args:
        hidden: (tokens, width).
        chosen: numbers of each token's experts, (tokens, k).
        shares: of those experts in its output, (tokens, k).
    """
    if not any("adapter" in part._modules and part.adapter.enabled for own in _maps(experts) for part in own.values()):
        return _before(experts)(experts, hidden, chosen, shares)
    first, last = _names(experts)
    output = torch.zeros_like(hidden)
    for index, maps in enumerate(_maps(experts)):
        token, place = torch.where(chosen == index)  # none, perhaps: its adapter has a gradient all the same
        y = maps[first](hidden[token])
        y = maps[last](experts._apply_gate(y) if experts.has_gate else experts.act_fn(y))
        if experts.has_post_expert_norm:
            y = experts.post_expert_norm(y)
        output = output.index_add(0, token, (y * shares[token, place, None]).to(output.dtype))
    return output


def _before(experts: nn.Module) -> Callable[..., Tensor]:
    """How the experts were computed before they were shown."""
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    plain, name = type(experts).forward.__wrapped__, experts.implementation_before
    return plain if name in (None, "eager") else ALL_EXPERTS_FUNCTIONS.get_interface(name, plain)
