"""What a method keeps in plain attributes: no checkpoint holds them, and no move of the model reaches them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapters.adapted_model import AdaptedModel
from variants.outside.places import assigned

_USUAL = {*vars(nn.Module()), "site", "config"}
"""What every layer has."""
_NO_STATE = (type, ModuleType, FunctionType)


def kept(owner: object) -> dict[str, Any]:
    """All numbers, texts, tensors and generators that an object keeps in plain attributes, by name: ``t``, ``past[0]``.

    Lists, mappings and other objects in them are gone through. Of a module its submodules are too; parameters, buffers
    and the site are no plain attributes. Of an optimizer, its groups and its state are none.
    """
    found: dict[str, Any] = {}
    seen = {id(owner)}
    for name, value in _attributes(owner):
        found |= _leaves(name, value, seen)
    return found


def loose_tensors(adapted: AdaptedModel) -> Iterator[tuple[object, str]]:
    """(layer or variant, name) of each tensor in a plain attribute, which is no parameter or buffer of the model.

    What a pass leaves for ``penalty`` is none of them.
    """
    modules = [adapted.model, *adapted.layers]
    known = {id(t) for module in modules for t in (*module.parameters(), *module.buffers())}
    for owner in (*adapted.layers, adapted.variant):
        for name, value in kept(owner).items():
            if isinstance(value, Tensor) and id(value) not in known and value.grad_fn is None:
                yield owner, name


def told_loose(adapted: AdaptedModel) -> str:
    """What is wrong with the first of :func:`loose_tensors`, where, and how to mend it; "" where there is none."""
    for owner, name in loose_tensors(adapted):
        at, cls = assigned(name, type(owner)), type(owner).__name__
        mend = f'self.register_buffer("{name}", ...)' if name.isidentifier() else "a buffer, or nn.ParameterList"
        mend = mend if isinstance(owner, nn.Module) else "make it in shared(sites, seed), as a buffer of a layer"
        return (
            f"{at}{': ' if at else ''}{cls}.{name} is a tensor in a plain attribute, which does not move with the "
            f"model and is in no file: {mend}"
        )
    return ""


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same in two of :func:`kept`."""
    return [name for name in one | other if _value(one.get(name)) != _value(other.get(name))]


def _attributes(owner: object) -> Iterator[tuple[str, Any]]:
    if isinstance(owner, nn.Module):
        for place, module in owner.named_modules():
            prefix = f"{place}." if place else ""
            yield from ((prefix + name, value) for name, value in vars(module).items() if name not in _USUAL)
    elif isinstance(owner, torch.optim.Optimizer):
        usual = ("state", "param_groups", "defaults")
        yield from ((k, v) for k, v in vars(owner).items() if k not in usual and not k.startswith("_"))
    else:
        yield from vars(owner).items() if hasattr(owner, "__dict__") else ()


def _leaves(name: str, value: Any, seen: set[int]) -> dict[str, Any]:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, Tensor, torch.Generator)):
        return {name: value}
    if isinstance(value, _NO_STATE) or id(value) in seen:
        return {}
    seen.add(id(value))
    if isinstance(value, Mapping):
        inside = [(f"{name}[{key!r}]", each) for key, each in value.items()]
    elif isinstance(value, (list, tuple)) or type(value).__name__ == "deque":
        inside = [(f"{name}[{index}]", each) for index, each in enumerate(value)]
    else:
        inside = [(f"{name}.{key}", each) for key, each in _attributes(value)]
        if isinstance(value, nn.Module):
            inside += [(f"{name}.{key}", each) for key, each in (*value.named_parameters(), *value.named_buffers())]
    return {key: leaf for key, each in inside for key, leaf in _leaves(key, each, seen).items()}


def _value(leaf: Any) -> Any:
    """A leaf as something that is equal where it is the same."""
    if isinstance(leaf, torch.Generator):
        leaf = leaf.get_state()
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), str(leaf.dtype), str(leaf.detach().flatten().tolist())
    return repr(leaf)
