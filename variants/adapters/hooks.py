"""How layers meet the model: a child named ``adapter`` on the original module, and two forward hooks.

The module itself is not replaced: names of base parameters, ``isinstance(m, nn.Linear)``, ``m.weight`` and tied
weights go on as before. The hooks stay on it when the child goes, and do nothing: compiled code looks whether the child
is there, but not for hooks that have come or gone.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from variants.adapters.late import Late
from variants.errors import VariantError
from variants.layer import LOW_PRECISION, AdapterLayer
from variants.sites.kinds.experts import ExpertMap, without_number
from variants.sites.kinds.patches import Patches
from variants.sites.kinds.rows import Cut


class Passes:
    """What is known of the passes through a module. It is written to and never read in a pass: no compiled code depends
    on it.

    Attributes:
        called: a pass has called the module, and so the hooks on it.
    """

    called = False


class SiteAdapters(nn.Module):
    """The layers of one module, in the order of the output features they adapt."""

    adds_to_base = True
    """A plain model lacks it (`variants.saving`)."""

    def __init__(self, layers: Sequence[AdapterLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.enabled = True
        self.merged = self.reduced = False  # the layers are in the base weight, or off it
        self.passes = Passes()
        self.late: Late | None = None
        self.changes_input = hasattr(layers[0], "pre")
        self.changes_length = hasattr(layers[0], "lengthen")  # it acts on the sequence and not on an output
        # what every forward would look up anew: the hooks' own cost is these look-ups
        object.__setattr__(self, "in_order", tuple(layers))
        self.whole = layers[0].site.is_whole
        self.cut = Cut([layer.site.rows for layer in layers])
        self.window = layers[0].site.window  # of a convolution

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The module's output with the adapter in it, same shape and dtype as ``y``.

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
        if self.window is None:
            return self._on_rows(run, x, y)
        return self.window.by_rows(functools.partial(self._on_patches, run), x, y)

    def _on_patches(self, run: Callable[..., Tensor], x: Patches, y: Tensor) -> Tensor:
        """As :meth:`_on_rows`, the new output from a changed input too: no image has changed patches."""
        if self.changes_input:
            site = self.in_order[0].site
            x = self.pre(x).to(x.dtype)
            y = (site.times(x) if site.bias() is None else site.times(x) + site.bias()).to(y.dtype)
        return self._on_rows(run, x, y)

    def _on_rows(self, run: Callable[..., Tensor], x: Tensor | Patches, y: Tensor) -> Tensor:
        if self.whole:
            return run(self.in_order[0], x, y).to(y.dtype)
        parts = self.cut.split(y)
        for layer, number in zip(self.in_order, self.cut.places, strict=True):
            parts[number] = run(layer, x, parts[number]).to(y.dtype)
        return self.cut.join(parts)

    def pre(self, x: Tensor) -> Tensor:
        """The module's new input, of the layer that changes it."""
        return self.layers[0].pre(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SiteAdapters:
        # to_empty() gives tensors of the meta device memory without values: these are to be computed yet
        had_none = self.late is not None and any(t.is_meta for t in (*self.parameters(), *self.buffers()))
        super()._apply(fn, recurse)
        if had_none:
            self.late.emptied += [t for t in (*self.parameters(), *self.buffers()) if not t.is_meta]
        return self

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


def _name_of_input(module: nn.Module, kwargs: dict) -> str:
    name = _first_argument(type(module))
    return name if name in kwargs else next(iter(kwargs))


def input_of(module: nn.Module, args: tuple, kwargs: dict) -> Tensor:
    """What a module was called with, by place or by name."""
    return args[0] if args else kwargs[_name_of_input(module, kwargs)]


def with_input(module: nn.Module, args: tuple, kwargs: dict, x: Tensor) -> tuple[tuple, dict]:
    """Arguments of a call with another input."""
    return ((x, *args[1:]), kwargs) if args else (args, kwargs | {_name_of_input(module, kwargs): x})


def by_example(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """A function of tensors (batch, length, ...), example by example where they are nested."""
    if not tensors[0].is_nested:
        return function(*tensors)
    examples = zip(*(tensor.unbind() for tensor in tensors), strict=True)
    rows = [function(*(row[None] for row in example))[0] for example in examples]
    return torch.nested.as_nested_tensor(rows, layout=tensors[0].layout)


def _acting(module: nn.Module) -> SiteAdapters | None:
    """What is on a module, if it acts."""
    adapter = module._modules.get("adapter")
    if adapter is None:
        return None
    adapter.passes.called = True
    return adapter if adapter.enabled else None


# functions of the module, not closures: deepcopy and pickle of the model take the copy's adapter


def _adapt(module: nn.Module, args: tuple, kwargs: dict, output: Tensor | tuple) -> Tensor | tuple:
    adapter = _acting(module)
    if adapter is None or adapter.changes_length:
        return output
    x = input_of(module, args, kwargs)
    if isinstance(output, tuple):  # a block that returns its attention too
        return by_example(adapter, x, output[0]), *output[1:]
    return by_example(adapter, x, output)


def _adapt_input(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    adapter = _acting(module)
    if adapter is None or not adapter.changes_input or adapter.window is not None:
        return args, kwargs
    x = input_of(module, args, kwargs)
    return with_input(module, args, kwargs, by_example(adapter.pre, x).to(x.dtype))


def _lengthen(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    adapter = _acting(module)
    lengthens = adapter is not None and adapter.changes_length
    return adapter.layers[0].lengthen(args, kwargs) if lengthens else (args, kwargs)


def _shorten(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    adapter = _acting(module)
    return adapter.layers[0].shorten(output) if adapter is not None and adapter.changes_length else output


def _follow(module: nn.Module, args: tuple) -> None:
    # before the first steps of an adapter whose start depends on the base: it leaves when there is nothing to follow
    if torch.compiler.is_compiling():
        return
    adapter = module._modules.get("adapter")
    late = getattr(adapter, "late", None)
    if late is not None:
        late.follow([layer.site.path for layer in adapter.in_order])
    if late is None or not late.starts:
        for key, hook in list(module._forward_pre_hooks.items()):
            if hook is _follow:
                del module._forward_pre_hooks[key]


def put(module: nn.Module, adapter: nn.Module) -> None:
    """Make ``adapter``, a :class:`SiteAdapters` or what computes as one, the child of ``module`` that its hooks ask."""
    if "adapter" in module._modules:
        raise VariantError(f"{type(module).__name__} has a child of its own called adapter: it cannot carry layers")
    before, behind = (
        (_lengthen if adapter.changes_length else _adapt_input if adapter.changes_input else None),
        (_shorten if adapter.changes_length else _adapt),
    )
    new = behind not in module._forward_hooks.values()
    if new:
        module.register_forward_hook(behind, with_kwargs=True)
    if before is not None and before not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(before, with_kwargs=True)
        new = True
    if new:
        _forget_compiled()
    module.adapter = adapter
    adapter.train(module.training)


def _forget_compiled() -> None:
    """Have all compiled code compiled anew: what was compiled for a module without hooks goes on without them."""
    dynamo = sys.modules.get("torch._dynamo")  # which takes a second to import
    if dynamo and getattr(dynamo.convert_frame, "FRAME_COUNTER", 1):
        torch.compiler.reset()


def hook_all(layers: Iterable[AdapterLayer], late: Late | None = None) -> list[nn.Module]:
    """Put layers on their modules, those of one module together; the modules.

    Args:
        late: what their adapter keeps to follow base weights that come behind attaching.
    """
    by_module = itertools.groupby(layers, key=lambda layer: id(layer.site.module))
    adapters = [SiteAdapters(list(group)) for _, group in by_module]
    modules = [own.in_order[0].site.module for own in adapters]
    for module, adapter in zip(modules, adapters, strict=True):
        put(module, adapter)
        if late is not None and late.starts:
            adapter.late = late
            module.register_forward_pre_hook(_follow, prepend=True)
    return modules


def unhook(module: nn.Module) -> None:
    """Take off ``module`` what :func:`put` has put there."""
    del module.adapter


def refuse_changed(model: nn.Module, tensors: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Before ``load_state_dict``: raise VariantError where base weights would go where an adapter has changed them.

    What is loaded would be without that change, and the old base would come back with the next ``unmerge`` or switch.
    """
    for path, module in model.named_modules():
        own, at = module._modules.get("adapter"), f"{prefix}{path}." if path else prefix
        weight = f"{prefix}{without_number(path)}" if isinstance(module, ExpertMap) else f"{at}weight"
        if not isinstance(own, SiteAdapters) or weight not in tensors:
            continue
        if own.merged or (own.reduced and not any(key.startswith(f"{at}adapter.") for key in tensors)):
            how = "an adapter is merged into" if own.merged else "an adapter's first update is taken off"
            raise VariantError(f"{how} {weight}: load base weights before, or within disabled()")


def uncalled(layers: Iterable[AdapterLayer]) -> list[str]:
    """Paths of the layers whose modules no pass has called since they were hooked: they have computed nothing yet."""
    return [layer.site.path for layer in layers if not layer.site.module.adapter.passes.called]


@contextmanager
def unnoticed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """``with`` this, calls of ``modules`` are no passes of the model that :func:`uncalled` would count."""
    called = [(module.adapter.passes, module.adapter.passes.called) for module in modules]
    try:
        yield
    finally:
        for passes, before in called:
            passes.called = before


def is_adapted(model: nn.Module) -> bool:
    """Whether any module of ``model`` carries adapter layers."""
    return any(isinstance(m, SiteAdapters) for m in model.modules())
