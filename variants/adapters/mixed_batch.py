"""A batch whose rows use different adapters of one base."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from variants.adapters import hooks
from variants.adapters.adapter import refuse_unknown
from variants.errors import VariantError
from variants.layer import AdapterLayer
from variants.new_tokens import modules_of as new_rows
from variants.variant import BaseVariant

if TYPE_CHECKING:
    from variants.adapters.adapted_model import AdaptedModel

Functions = dict[str, Callable[[Tensor, Tensor], Tensor]]  # adapter -> its output for rows of x and y


@contextmanager
def mixed(adapted: AdaptedModel, rows: Sequence[str | None]) -> Iterator[nn.Module]:
    """``with mixed(adapted, ["a", "b", None]): model(**batch)``: row i by adapter ``rows[i]``, head included.

    Each linear map of the base runs once for the whole batch, then every adapter on its own rows. None is the plain
    base model with the head it came with. The adapter that was active is active again afterwards.

    Raises:
        VariantError: an adapter is unknown or changes more than layers and parameters, or (inside) a tensor has no
            row for each entry of ``rows``.
    """
    names = [name for name in dict.fromkeys(rows) if name is not None]
    refuse_unknown(adapted.adapters, names)
    for name in names:
        variant = adapted.adapters[name].variant
        sequence = any(hasattr(layer, "lengthen") for layer in adapted.adapters[name].layers.values())
        if sequence or type(variant).attach is not BaseVariant.attach:
            raise VariantError(f"{name!r} cannot share a batch: {variant.name} changes the model beyond its layers")
        if new_rows(adapted.model):
            raise VariantError(f"{name!r} cannot share a batch: rows of new tokens are looked up for the whole of it")
        if not all(layer.site.sees_batch for layer in adapted.adapters[name].layers.values()):
            raise VariantError(f"{name!r} cannot share a batch: its experts get tokens that a router has chosen")
    found = adapted.state
    adapted.deactivate()
    batch = _Batch(rows)
    try:
        batch.hook_layers(adapted, names)
        batch.swap_parameters(adapted, names)
        yield adapted.model
    finally:
        batch.release()
        adapted.restore(found)


class _RowAdapters(nn.Module):
    """In place of a module's :class:`SiteAdapters`: those of several adapters, each on its own rows."""

    def __init__(self, batch: _Batch, module: nn.Module, layers: Mapping[str, Sequence[AdapterLayer]]) -> None:
        super().__init__()
        self.enabled, self.passes, self.changes_length = True, hooks.Passes(), False
        site = next(iter(layers.values()))[0].site
        self.batch, self.path, self.window = batch, site.module_path, site.window
        self.after: Functions = {}
        self.before: Functions = {}
        for name, own in layers.items():
            self.after[name] = hooks.SiteAdapters([layer.at_site() for layer in own]).train(module.training)
            if hasattr(own[0], "pre"):
                self.before[name] = lambda x, _, pre=own[0].pre: pre(x)
        self.changes_input = bool(self.before)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The module's output, each row by its own adapter."""
        return self.batch.adapt(self.after, x, y, self.path)

    def pre(self, x: Tensor) -> Tensor:
        """The module's input, each row by its own adapter."""
        return self.batch.adapt(self.before, x, x, self.path)


class _Batch:
    """The hooks that send each row through its own adapter."""

    def __init__(self, rows: Sequence[str | None]) -> None:
        self.size = len(rows)
        self.rows = {name: [i for i, row in enumerate(rows) if row == name] for name in dict.fromkeys(rows)}
        self.inside: list[str | None] = []  # the adapter whose rows alone are being computed, if any
        self.known: dict[tuple[int, torch.device], dict[str | None, Tensor]] = {}
        self.undo: list[Callable[[], None]] = []

    def index(self, tensor: Tensor, where: str) -> dict[str | None, Tensor]:
        """Adapter -> its rows in ``tensor``, which may hold several consecutive ones for each example of the batch.

        Raises:
            VariantError: the tensor has no row, or a broken number of rows, for each example.
        """
        key = tensor.shape[0], tensor.device
        if key not in self.known:
            each, rest = divmod(tensor.shape[0], self.size)
            if rest or not each:
                raise VariantError(
                    f"{where} gets {tensor.shape[0]} rows where {self.size} adapters were named, one for each example: "
                    "the batch has another size, or the model computes this for all examples at once"
                )
            own = {name: [i * each + j for i in rows for j in range(each)] for name, rows in self.rows.items()}
            self.known[key] = {name: torch.tensor(rows, device=tensor.device) for name, rows in own.items()}
        return self.known[key]

    def release(self) -> None:
        for call in reversed(self.undo):
            call()

    # ---- layers --------------------------------------------------------------------------------------------

    def hook_layers(self, adapted: AdaptedModel, names: Sequence[str]) -> None:
        """Run the layers of each adapter on its rows of every adapted module's output."""
        modules: dict[nn.Module, dict[str, list]] = {}
        for name in names:
            adapted.adapters[name].late.follow()
            for layer in adapted.adapters[name].layers.values():
                modules.setdefault(layer.site.module, {}).setdefault(name, []).append(layer)
        for module, layers in modules.items():
            hooks.put(module, _RowAdapters(self, module, layers))
            self.undo.append(lambda module=module: hooks.unhook(module))

    def adapt(self, functions: Functions, x: Tensor, y: Tensor, where: str) -> Tensor:
        """``y`` with the rows of each adapter replaced by what its function makes of them."""
        if self.inside:
            own = functions.get(self.inside[-1])
            return y if own is None else own(x, y).to(y.dtype)
        for name, index in self.index(x, where).items():
            if name in functions:
                new = functions[name](x.index_select(0, index), y.index_select(0, index))
                y = y.index_copy(0, index, new.to(y.dtype))
        return y

    # ---- parameters that train in place --------------------------------------------------------------------

    def swap_parameters(self, adapted: AdaptedModel, names: Sequence[str]) -> None:
        """Run each module that owns such parameters once per adapter, with that adapter's values, on its rows."""
        own: dict[nn.Module, dict[str, nn.Module]] = {}
        for name in names:
            adapter = adapted.adapters[name]
            for key, value in adapter.values.items():
                module = adapted.model.get_submodule(key.rpartition(".")[0])
                twin = own.setdefault(module, {}).setdefault(name, _twin(module))
                name_in_module = key.rpartition(".")[2]
                twin._parameters[name_in_module] = value.to(module._parameters[name_in_module])
            for path in adapter.first:
                site = adapter.layers[path].site
                twin = own.setdefault(site.module, {}).setdefault(name, _twin(site.module))
                own_site = site.on(twin)
                if own_site.parameter is site.parameter:
                    own_site.unshare()
                own_site.write(adapter.reduced(path), None)
        for module, twins in own.items():
            module.forward = self.by_row(_twin(module), twins)
            self.undo.append(lambda m=module: delattr(m, "forward"))

    def by_row(self, base: nn.Module, twins: Mapping[str, nn.Module]) -> Callable[..., Tensor]:
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            if self.inside:
                return twins.get(self.inside[-1], base).forward(*args, **kwargs)
            first = next(v for v in (*args, *kwargs.values()) if isinstance(v, Tensor))
            out = None
            for name, index in self.index(first, type(base).__name__).items():
                part = [_rows(v, index, first.shape[0]) for v in args]
                named = {k: _rows(v, index, first.shape[0]) for k, v in kwargs.items()}
                self.inside.append(name)
                try:
                    y = twins.get(name, base).forward(*part, **named)
                finally:
                    self.inside.pop()
                out = y.new_empty(first.shape[0], *y.shape[1:]) if out is None else out
                out = out.index_copy(0, index, y)
            return out

        return forward


def _rows(value: Any, index: Tensor, size: int) -> Any:
    is_batch = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size
    return value.index_select(0, index) if is_batch else value


def _twin(module: nn.Module) -> nn.Module:
    """A second module of the same children, buffers and parameters, whose own parameters can be set apart."""
    twin = copy.copy(module)
    twin._parameters = dict(module._parameters)
    return twin
