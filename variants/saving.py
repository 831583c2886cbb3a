"""``save_pretrained`` of a model that carries adapters: what it writes is a plain model."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from variants.new_tokens import own_keys, written
from variants.sites.kinds.few_bits import said_in_config


def save_plain(model: nn.Module) -> None:
    """Have ``model.save_pretrained``, transformers' or diffusers', write a plain model from now on."""
    if (own := getattr(type(model), "save_pretrained", None)) is not None:
        takes_tensors = "state_dict" in inspect.signature(own).parameters  # diffusers' does not
        model.save_pretrained = types.MethodType(save_pretrained if takes_tensors else save_bare, model)


def save_bare(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """diffusers' ``save_pretrained``, writing a plain model."""
    with _bare(self):
        return type(self).save_pretrained(self, *args, **kwargs)


def _adds(module: nn.Module | None) -> bool:
    """Whether a module is what adapters have put on another one (`variants.adapters.hooks`)."""
    return getattr(module, "adds_to_base", False)


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    """``with`` this, no module has its adapters as a child."""
    adapted = [m for m in model.modules() if _adds(m._modules.get("adapter"))]
    children = [module._modules.pop("adapter") for module in adapted]
    try:
        yield
    finally:
        for module, child in zip(adapted, children, strict=True):
            module._modules["adapter"] = child


_PLAIN: Any = object()


def save_pretrained(
    self: nn.Module, save_directory: Any, is_main_process: bool = True, state_dict: Any = _PLAIN, *args, **kwargs
):
    """transformers' ``save_pretrained``, writing a plain model: the adapters' own keys are left out.

    A call that names ``state_dict`` gets all that it names, the adapters included, and None is the whole model: so
    do loops that go on from what they wrote (transformers' Trainer, accelerate).
    """
    adapters = {f"{name}." for name, m in self.named_modules() if _adds(m)} | {*own_keys(self)}
    plain, kept, seen = state_dict is _PLAIN, {}, set()
    with written(self), said_in_config(self):
        for key, tensor in (self.state_dict() if plain or state_dict is None else state_dict).items():
            if any(key.startswith(prefix) for prefix in adapters):
                if plain or tensor.data_ptr() in seen:  # one that layers share is written once, as safetensors asks
                    continue
                seen |= {tensor.data_ptr()} if tensor.numel() else set()
            kept[key] = tensor
        return type(self).save_pretrained(self, save_directory, is_main_process, kept, *args, **kwargs)
