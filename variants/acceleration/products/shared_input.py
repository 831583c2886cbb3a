"""Frozen linear maps that read one tensor, and adapters that read it too: one product, and one gradient.

Queries, keys and values are three maps of one input, and adapters beside them are more. PyTorch multiplies for each,
and adds up as many gradients of the input, a kernel for each sum. Here the frozen maps are one product, and whoever
reads adds to the one gradient with the product that makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.acceleration.basics.overrides import Override
from variants.acceleration.basics.policy import few_kernels, large, plain
from variants.acceleration.basics.tensor_notes import TensorNotes
from variants.acceleration.products.side_stream import mark
from variants.acceleration.products.sources import Source, remember, source_of
from variants.acceleration.products.updated_maps import updated_outputs
from variants.layer import rows
from variants.sites.kinds import is_conv1d, kind_of
from variants.sites.kinds.few_bits import FewBits
from variants.sites.site import Site
from variants.sites.targets import gated, siblings


class GradientSum:
    """The gradient of what is read, which readers add to, and the values of what is read.

    Attributes:
        ready: when the values were there (`side_stream.mark`).
    """

    def __init__(self, source: Source) -> None:
        self.total: Tensor | None = None
        self.ready: torch.cuda.Event | None = None
        self._source = source
        self._values: tuple[torch.cuda.Stream | None, Tensor] | None = None

    def add(self, part: Tensor, matrix: Tensor) -> None:
        """Add a part (N, n) times a matrix (n, in_features), or (S, N/S, n) times S matrices."""
        if self.total is None:
            self.total = (part @ matrix).view(-1, matrix.shape[-1])
        elif matrix.ndim == 2:
            self.total.addmm_(part, matrix)
        else:
            self.total.view(*part.shape[:-1], matrix.shape[-1]).baddbmm_(part, matrix)

    def take(self) -> Tensor | None:
        """The sum (N, in_features), and an end of it."""
        total, self.total, self._values = self.total, None, None
        return total

    def keep(self) -> tuple[Tensor, ...]:
        """What :meth:`again` needs, to be saved for the backward pass."""
        return self._source.kept

    def again(self, *kept: Tensor) -> Tensor:
        """The values of what is read."""
        where = torch.cuda.current_stream(kept[0].device) if kept[0].is_cuda else None
        if self._values is None or self._values[0] != where:  # another branch would not wait for this one's
            with torch.no_grad():
                self._values = where, self._source.values(*kept)
        return self._values[1]


class SharedInput:
    """One tensor as its readers see it in one forward pass.

    Attributes:
        x: the same values; gradients of it go to ``sum`` or, as usual, through autograd. Both are None where the
            outputs have all updates in them, and nobody else reads.
        outputs: of frozen maps that have not been asked yet, by their place among those that read together.
    """

    def __init__(self, x: Tensor, maps: FusedLinears) -> None:
        self.x, self.sum = None, None
        outputs = updated_outputs(maps.modules, maps.sites, x) if large(x) else None
        if outputs is None:
            self.sum = GradientSum(source_of(x))
            self.sum.ready = mark(x)
            self.x, *outputs = _FusedForward.apply(x, maps, self.sum)
        self.maps, self.outputs = maps, dict(enumerate(outputs))


_SHARED: TensorNotes[SharedInput] = TensorNotes()


def shared_input_of(x: Tensor) -> SharedInput | None:
    """How a tensor is being read, if frozen maps read it together."""
    return _SHARED.get(x)


def forget() -> None:
    """What is known of tensors ends with its accelerated pass."""
    _SHARED.forget()


class FusedLinears:
    """Frozen linear maps that read one tensor: one module, or several, whose dense weights are kept as one matrix."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = list(modules)
        self.sites = [Site(module, "", "") for module in modules]
        self.joins = all(type(module) is nn.Linear for module in self.modules)  # packed weights stay apart
        self._whole: tuple[Tensor, Tensor | None] | None = None
        self._places: list[int] = []

    def overrides(self) -> Iterator[Override]:
        """Forward functions of the modules that compute together."""
        for place, module in enumerate(self.modules):
            yield module, "forward", partial(self._forward, place)

    def _forward(self, place: int, *args: Tensor, **kwargs: Tensor) -> Tensor:
        module, (x,) = self.modules[place], (*args, *kwargs.values())  # called by name: input=x
        if x.dtype != self.sites[place].dtype or not few_kernels(x):
            return type(module).forward(module, x)
        reading = shared_input_of(x)
        if reading is None or reading.maps is not self or place not in reading.outputs:
            reading = _SHARED.put(x, SharedInput(x, self))
        return reading.outputs.pop(place)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """W x + b of each map, (..., out_features)."""
        if len(self.modules) == 1 or not self.joins:
            return [type(module).forward(module, x) for module in self.modules]
        if self._places != [p.data_ptr() for p in self._parameters()]:  # never joined, or moved since
            self._whole = _joined([site.parameter for site in self.sites]), _joined([m.bias for m in self.modules])
            self._places = [p.data_ptr() for p in self._parameters()]
        parts = F.linear(x, *self._whole).split([site.out_features for site in self.sites], dim=-1)
        return [part.data for part in parts]  # adapters write into each by itself

    def matrix(self, place: int) -> Tensor:
        """The weight of a map, (out_features, in_features)."""
        return self.sites[place].weight()

    def whole(self) -> Tensor:
        """The weights of all maps that have been joined, one below the other."""
        return self._whole[0]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for site in self.sites for p in (site.parameter, site.module.bias) if p is not None]


@torch.inference_mode(False)  # the first pass may be an evaluation's, and a later one wants gradients
@torch.no_grad()
def _joined(parameters: Sequence[nn.Parameter | None]) -> Tensor | None:
    """One tensor of all, whose parts the parameters are from now on."""
    if parameters[0] is None:
        return None
    whole = torch.cat([p.data for p in parameters])
    for parameter, part in zip(parameters, whole.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return whole


class _FusedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, maps: FusedLinears, sum: GradientSum) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.maps, ctx.sum, ctx.shape = maps, sum, x.shape
        return x.detach(), *maps.outputs(x)

    @staticmethod
    def backward(ctx: Any, own: Tensor | None, *gradients: Tensor | None) -> tuple[Tensor | None, None, None]:
        if ctx.maps.joins and (together := _side_by_side(gradients)) is not None:
            ctx.sum.add(together, ctx.maps.whole())
        else:
            for place, gradient in enumerate(gradients):
                if gradient is not None:
                    ctx.sum.add(rows(gradient), ctx.maps.matrix(place))
        total = ctx.sum.take()
        if total is None:
            return own, None, None
        total = total.view(ctx.shape)
        return total if own is None else total + own, None, None


def _side_by_side(parts: Sequence[Tensor | None]) -> Tensor | None:
    """(N, n) if the parts, (..., n_1), (..., n_2), ..., are its columns in their order in memory."""
    if len(parts) == 1 or any(part is None for part in parts):
        return None
    flat = [rows(part) for part in parts]
    width, place = sum(part.shape[1] for part in flat), flat[0].data_ptr()
    for part in flat:
        if part.data_ptr() != place or part.stride() != (width, 1):
            return None
        place += part.shape[1] * part.element_size()
    return flat[0].as_strided((len(flat[0]), width), (width, 1))


def shared_inputs(
    model: nn.Module, adapted: Iterable[nn.Module], exclude: Iterable[nn.Module] = ()
) -> Iterator[Override]:
    """Overrides: frozen maps that read one tensor compute together.

    Args:
        adapted: maps with adapters: they share a gradient with them. Queries, keys and values of a block are joined,
            and so are a gate and what it gates.
        exclude: maps that read another tensor than their siblings.
    """
    others = {id(module) for module in exclude}
    groups = [[module for module in group if id(module) not in others] for group in (*siblings(model), *gated(model))]
    groups = [group for group in groups if all(map(frozen_linear, group)) and _joinable(group)]
    known = {id(module) for group in groups for module in group}
    alone = {id(module): module for module in adapted if id(module) not in known and frozen_linear(module)}
    maps = [FusedLinears(group) for group in (*groups, *([module] for module in alone.values()))]
    for together in maps:
        yield from together.overrides()
    norms = (module for module in model.modules() if type(module) is nn.LayerNorm)
    yield from ((norm, "forward", _RememberingNorm(norm).forward) for norm in norms if not is_overridden(norm))


def is_overridden(module: nn.Module) -> bool:
    """Whether somebody has given the module another forward function than its class has."""
    return getattr(module.forward, "__func__", None) is not type(module).forward


def frozen_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map of PyTorch's, GPT-2's or bitsandbytes' with a forward function of its class, and
    nothing of it trains."""
    kind = kind_of(module)
    known = isinstance(kind, FewBits) or ((type(module) is nn.Linear or is_conv1d(module)) and kind.readable)
    trains = any(p.requires_grad for p in module._parameters.values() if p is not None)
    return known and not trains and not is_overridden(module)


def _joinable(group: Sequence[nn.Module]) -> bool:
    """Whether maps can compute together: they are alike, and whole."""
    sites = [Site(module, "", "") for module in group]
    if any(site.in_shards for site in sites):
        return False
    kinds = {(site.dtype, site.device, site.bias() is None, site.in_features) for site in sites}
    return len(kinds) == 1 and len({type(m) for m in group}) == 1 and not is_conv1d(group[0])


class _RememberingNorm:
    """In an accelerated pass, what a norm puts out says what it was made of, where it is large."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.norm = norm

    def forward(self, input: Tensor) -> Tensor:
        """As the norm's own."""
        y = type(self.norm).forward(self.norm, input)
        if not y.is_nested and y.dtype == input.dtype and plain(input):
            remember(y, partial(type(self.norm).forward, self.norm), input)
        return y
