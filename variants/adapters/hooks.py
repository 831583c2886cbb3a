"""How layers meet the model: a child named ``adapter`` on the original module, and two forward hooks.

The module itself is not replaced: names of base parameters, ``isinstance(m, nn.Linear)``, ``m.weight`` and tied
weights go on as before.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from variants.layer import LOW_PRECISION, AdapterLayer
from variants.sites.rows import Cut


class SiteAdapters(nn.Module):
    """The layers of one module, in the order of the output features they adapt."""

    def __init__(self, layers: Sequence[AdapterLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.enabled = True
        # what every forward would look up anew: the hooks' own cost is these look-ups
        object.__setattr__(self, "in_order", tuple(layers))
        self.whole = layers[0].site.is_whole
        self.cut = Cut([layer.site.rows for layer in layers])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """AdaptedModel output of the module, same shape and dtype as ``y``.

        fp32 adapters over a low-precision base compute as they do under autocast, whether or not it is on.
        """
        if y.dtype in LOW_PRECISION and not torch.is_autocast_enabled(y.device.type):
            with autocast(y.device.type, y.dtype):
                return self.compute(x, y)
        return self.compute(x, y)

    def compute(self, x: Tensor, y: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
        """:meth:`forward` in the precision that is set.

        Args:
            run: computes a layer's output from (layer, x, y) where that is not the layer's own forward function.
        """
        run = _forward if run is None else run
        if self.whole:
            return run(self.in_order[0], x, y).to(y.dtype)
        parts = self.cut.split(y)
        for layer, number in zip(self.in_order, self.cut.places, strict=True):
            parts[number] = run(layer, x, parts[number]).to(y.dtype)
        return self.cut.join(parts)


def _forward(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return layer(x, y)


@functools.cache
def autocast(kind: str, dtype: torch.dtype) -> torch.autocast:
    """Autocast on a kind of device: one object for all passes, since to make another costs more than most layers."""
    return torch.autocast(kind, dtype)


def _adapt(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
    # a function of the module, not a closure: deepcopy and pickle of the model take the copy's adapter
    adapter = module.adapter
    if not adapter.enabled:
        return output
    if isinstance(output, tuple):  # a block that returns its attention too
        return adapter(args[0], output[0]), *output[1:]
    return adapter(args[0], output)


def _adapt_input(module: nn.Module, args: tuple) -> tuple:
    if not module.adapter.enabled:
        return args
    return (module.adapter.layers[0].pre(args[0]).to(args[0].dtype), *args[1:])


def _lengthen(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return module.adapter.layers[0].lengthen(args, kwargs) if module.adapter.enabled else (args, kwargs)


def _shorten(module: nn.Module, args: tuple, output: Any) -> Any:
    return module.adapter.layers[0].shorten(output) if module.adapter.enabled else output


def hook(module: nn.Module, layers: Sequence[AdapterLayer]) -> list:
    """Put ``layers`` on ``module``; returns the handles that :func:`unhook` takes."""
    module.adapter = SiteAdapters(layers)
    module.adapter.train(module.training)
    if hasattr(layers[0], "lengthen"):  # it acts on the sequence and not on an output
        return [
            module.register_forward_pre_hook(_lengthen, with_kwargs=True),
            module.register_forward_hook(_shorten),
        ]
    handles = [module.register_forward_hook(_adapt)]
    if hasattr(layers[0], "pre"):
        handles.append(module.register_forward_pre_hook(_adapt_input))
    return handles


def hook_all(layers: Iterable[AdapterLayer]) -> list[tuple[nn.Module, list]]:
    """:func:`hook` layers, those of one module together; the modules and their handles."""
    by_module = itertools.groupby(layers, key=lambda layer: id(layer.site.module))
    return [(own[0].site.module, hook(own[0].site.module, own)) for _, group in by_module for own in [list(group)]]


def unhook(module: nn.Module, handles: list) -> None:
    """Leave ``module`` as it was before :func:`hook`."""
    for handle in handles:
        handle.remove()
    del module.adapter


def is_adapted(model: nn.Module) -> bool:
    """Whether any module of ``model`` carries adapter layers."""
    return any(isinstance(m, SiteAdapters) for m in model.modules())


_PLAIN: Any = object()


def save_pretrained(
    self: nn.Module, save_directory: Any, is_main_process: bool = True, state_dict: Any = _PLAIN, *args, **kwargs
):
    """transformers' ``save_pretrained``, writing a plain model: the adapters' own keys are left out.

    A call that names ``state_dict`` gets all that it names, the adapters included, and None is the whole model: so
    do loops that go on from what they wrote (transformers' Trainer, accelerate).
    """
    adapters = {f"{name}." for name, m in self.named_modules() if isinstance(m, SiteAdapters)}
    plain = state_dict is _PLAIN
    written: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, tensor in (self.state_dict() if plain or state_dict is None else state_dict).items():
        if any(key.startswith(prefix) for prefix in adapters):
            if plain or tensor.data_ptr() in seen:  # one that layers share is written once, as safetensors asks
                continue
            seen |= {tensor.data_ptr()} if tensor.numel() else set()
        written[key] = tensor
    return type(self).save_pretrained(self, save_directory, is_main_process, written, *args, **kwargs)
