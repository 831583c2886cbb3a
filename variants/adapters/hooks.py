"""How layers meet the model: a child named ``adapter`` on the original module, and two forward hooks.

The module itself is not replaced: names of base parameters, ``isinstance(m, nn.Linear)``, ``m.weight`` and tied
weights go on as before.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.layer import LOW_PRECISION, AdapterLayer
from variants.sites.rows import Cut


class Passes:
    """What is known of the passes through a module. It is written to and never read in a pass: no compiled code depends
    on it.

    Attributes:
        called: a pass has called the module, and so the hooks on it.
    """

    called = False


class SiteAdapters(nn.Module):
    """The layers of one module, in the order of the output features they adapt."""

    def __init__(self, layers: Sequence[AdapterLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.enabled = True
        self.passes = Passes()
        self.input_name = _first_argument(type(layers[0].site.module))
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

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles; none in an accelerated pass, whose replaced functions would stay on the copy."""
        if "compute" in vars(self):
            raise VariantError("inside accelerated() a model cannot be copied or pickled: leave the block first")
        return vars(self).copy()


def _forward(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return layer(x, y)


@functools.cache
def autocast(kind: str, dtype: torch.dtype) -> torch.autocast:
    """Autocast on a kind of device: one object for all passes, since to make another costs more than most layers."""
    return torch.autocast(kind, dtype)


@functools.cache
def _first_argument(kind: type[nn.Module]) -> str:
    return next(iter(list(inspect.signature(kind.forward).parameters)[1:]), "")


def input_of(module: nn.Module, args: tuple, kwargs: dict) -> Tensor:
    """What a module was called with, by place or by name."""
    if args:
        return args[0]
    name = module.adapter.input_name
    return kwargs[name] if name in kwargs else next(iter(kwargs.values()))


def by_example(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of tensors (batch, length, ...), example by example where they are nested."""
    if not tensors[0].is_nested:
        return function(*tensors)
    examples = zip(*(tensor.unbind() for tensor in tensors), strict=True)
    rows = [function(*(row[None] for row in example))[0] for example in examples]
    return torch.nested.as_nested_tensor(rows, layout=tensors[0].layout)


def _adapt(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> Tensor | tuple:
    # a function of the module, not a closure: deepcopy and pickle of the model take the copy's adapter
    adapter = module.adapter
    adapter.passes.called = True
    if not adapter.enabled:
        return output
    x = input_of(module, args, kwargs)
    if isinstance(output, tuple):  # a block that returns its attention too
        return by_example(adapter, x, output[0]), *output[1:]
    return by_example(adapter, x, output)


def _adapt_input(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    if not module.adapter.enabled:
        return args, kwargs
    x = input_of(module, args, kwargs)
    new = by_example(module.adapter.layers[0].pre, x).to(x.dtype)
    return ((new, *args[1:]), kwargs) if args else (args, kwargs | {module.adapter.input_name: new})


def _lengthen(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    module.adapter.passes.called = True
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
    handles = [module.register_forward_hook(_adapt, with_kwargs=True)]
    if hasattr(layers[0], "pre"):
        handles.append(module.register_forward_pre_hook(_adapt_input, with_kwargs=True))
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


def uncalled(layers: Iterable[AdapterLayer]) -> list[str]:
    """Paths of the layers whose modules no pass has called since they were hooked: they have computed nothing yet."""
    return [layer.site.path for layer in layers if not layer.site.module.adapter.passes.called]


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
