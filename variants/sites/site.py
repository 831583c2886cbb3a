"""Where an adapter sits: a linear map or a slice of one, seen as an (out, in) matrix, or another module as a whole.

A convolution is a linear map of patches (`variants.sites.kinds.patches`).

A site alone reads and writes base weights; how they are kept is known to `variants.sites.kinds`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from variants.errors import VariantError
from variants.sites.kinds import Quantised, is_conv1d, is_linear, kind_of
from variants.sites.kinds.patches import Window
from variants.sites.kinds.plain import Plain
from variants.sites.kinds.rows import Rows
from variants.sites.ranges import block_number
from variants.wrappers import in_shards

__all__ = ["ModuleSite", "Site", "is_conv1d", "is_linear"]

REMEDY = "Load the model in float32, bfloat16 or float16"


def _quantised(module: nn.Module) -> str:
    """How a module keeps a weight that is no matrix of floating-point numbers."""
    weight, kind = module.weight, type(module.weight.data).__name__
    form = str(weight.dtype).removeprefix("torch.") if kind == "Tensor" else kind
    return f"({type(module).__name__}) keeps its weight quantised, as {form} {list(weight.shape)}"


@dataclass
class Site:
    """Output features ``start`` to ``stop`` of every ``period`` of one module; it lives outside the module tree.

    Attributes:
        module: the base module that the adapter hooks onto.
        path: name in files and patterns: the module's name, plus the slice's label where it is a slice.
        module_path: the module's own name in the model.
        start, stop: the slice of the output features; the whole of them by default.
        period: after how many features the slice begins anew (`variants.sites.kinds.rows`); by default it does not.
        kind: how the module keeps its weight; None where it is no linear map.
        rows: the features that it covers, of the module's.
        role: what it does in its block (q, k, v, o, gate, up, down), "" where its family does not say.
    """

    module: nn.Module
    path: str
    module_path: str
    start: int = 0
    stop: int = -1
    period: int = 0
    kind: Plain | None = field(default=None, init=False, repr=False, compare=False)
    rows: Rows = field(default=None, init=False, repr=False, compare=False)
    role: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.kind = kind_of(self.module)
        if isinstance(self.kind, Quantised) and self.kind.packs(self.module):
            raise VariantError(
                f"{self.path} {_quantised(self.module)}: maps packed in 4 bits are not supported yet. {REMEDY}"
            )
        self.period = self.period or self.total_out
        self.stop = self.period if self.stop < 0 else self.stop
        self.rows = Rows(self.start, self.stop, self.period, self.total_out)

    def on(self, module: nn.Module) -> Site:
        """The same place of another module of the same shape."""
        return dataclasses.replace(self, module=module)

    def whole(self) -> Site:
        """The whole of the module that this is a part of."""
        return Site(self.module, self.module_path, self.module_path)

    # ---- its place and shape -------------------------------------------------------------------------------

    @property
    def span(self) -> tuple[str, int, int, int]:
        """The features that it covers, whatever it is called."""
        return self.module_path, self.start, self.stop, self.period

    @property
    def block(self) -> int | None:
        """The number of its block, from 0; None outside of blocks."""
        return block_number(self.module_path)

    @property
    def total_out(self) -> int:
        """Output features of the whole module; of one that is no linear map, what the site was said to cover."""
        return self.kind.shape(self.module)[0] if self.kind else self.period

    @property
    def in_features(self) -> int:
        """Width of what goes into the module, or of a patch of it."""
        return self.kind.shape(self.module)[1]

    @property
    def out_features(self) -> int:
        """How many output features it covers."""
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where the base weight lies."""
        return self.parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """What the base module computes in."""
        return self.kind.dtype(self.module)

    @property
    def is_whole(self) -> bool:
        """It covers all output features of its module."""
        return self.out_features == self.total_out

    @property
    def sees_batch(self) -> bool:
        """The module gets the rows of a batch in their order, and no tokens that a router has chosen."""
        return self.kind is None or self.kind.sees_batch

    @property
    def window(self) -> Window | None:
        """Which patches of its input the module multiplies, where it is a convolution."""
        return self.kind.window(self.module) if self.kind else None

    @property
    def is_transposed(self) -> bool:
        """The module keeps its weight as (in, out), as GPT-2's does."""
        return self.kind.transposes(self.module)

    # ---- the base weight -----------------------------------------------------------------------------------

    @property
    def parameter(self) -> nn.Parameter:
        """The module's parameter that holds the weight: to ask whether it trains or is tied, never for its values."""
        return self.kind.parameter(self.module)

    @property
    def in_shards(self) -> bool:
        """The weight is spread over several devices now; it is whole while its block computes (``fully_shard``)."""
        return in_shards(self.parameter)

    def weight(self) -> Tensor:
        """The base weight, (out_features, in_features).

        A view where the module keeps it so; a copy of interleaved rows, or where it is kept in another form.

        Raises:
            VariantError: only the module itself can read it, or it is in shards (:attr:`in_shards`).
        """
        self._refuse_unreadable()
        return self.kind.weight(self.module, self.rows)

    def bias(self) -> Tensor | None:
        """The base bias, (out_features), or None."""
        bias = self.module.bias
        return None if bias is None else self.rows.of(bias)

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ without the bias, (..., in_features) -> (..., out_features)."""
        self._refuse_unreadable()
        return self.kind.times(self.module, self.rows, x)

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Overwrite the base weight (and bias) of this site in place."""
        self._refuse_unreadable()
        self.kind.write(self.module, self.rows, weight)
        if bias is not None and self.module.bias is not None:
            self.rows.write(self.module.bias, bias)

    @torch.no_grad()
    def kept(self, bias: bool = True) -> tuple[Any, Tensor | None]:
        """An exact copy of what :meth:`write` changes, for :meth:`restore`.

        Args:
            bias: the bias too; not where None is written for it, since it may be trained meanwhile.
        """
        self._refuse_unreadable()
        own = self.bias() if bias else None
        return self.kind.kept(self.module, self.rows), None if own is None else own.detach().clone()

    @torch.no_grad()
    def restore(self, kept: tuple[Any, Tensor | None]) -> None:
        """Bring back exactly what :meth:`kept` gave; it can be brought back again later."""
        weight, bias = kept
        self.kind.restore(self.module, self.rows, weight)
        if bias is not None:
            self.rows.write(self.module.bias, bias)

    def pack_again(self) -> bool:
        """Where a dense weight stands in for a packed one, put the packed one back; whether there was one."""
        return self.kind.pack_again(self.module)

    def _refuse_unreadable(self) -> None:
        if self.kind and not self.kind.readable:
            raise VariantError(
                f"{self.path} {_quantised(self.module)}, which only the module itself can read: lora, adalora and vera "
                f"work there, but no method that computes with the weight, and no merging. {REMEDY}"
            )
        if self.in_shards:
            raise VariantError(
                f"{self.path} keeps its weight in shards, which are whole only while its block computes: a layer's "
                "forward() can read it, but nothing between passes can, and it cannot be merged. Save the adapter and "
                "load it on a whole model"
            )

    def unshare(self) -> None:
        """Give the module a copy of its weight: a shallow copy of another module can then be written to."""
        self.kind.unshare(self.module)


@dataclass
class ModuleSite(Site):
    """A module that is no linear map (a block, a LayerNorm, the backbone), seen by the hidden states that it puts out.

    Attributes:
        like: a linear map inside that writes to the same hidden states: it gives their width, device and dtype.
        ends_with_norm: the module is the LayerNorm that ends a block, and the hidden states are its output.
    """

    like: Site | None = None
    ends_with_norm: bool = False

    @property
    def total_out(self) -> int:
        """Width of the hidden states."""
        return self.like.total_out

    @property
    def in_features(self) -> int:
        """Width of the hidden states."""
        return self.like.total_out

    @property
    def device(self) -> torch.device:
        """Where the hidden states are computed."""
        return self.like.device

    @property
    def dtype(self) -> torch.dtype:
        """What the maps around compute in."""
        return self.like.dtype

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings that it takes, which may differ from that of its hidden states (OPT-350m)."""
        embed = getattr(self.module, "get_input_embeddings", None)
        return embed().embedding_dim if embed else self.total_out

    @property
    def parameter(self) -> nn.Parameter:
        """Not to be had."""
        raise self._no_map()

    def weight(self) -> Tensor:
        """Not to be had."""
        raise self._no_map()

    def bias(self) -> None:
        """None: what it has is not added to by adapters."""
        return None

    def times(self, x: Tensor) -> Tensor:
        """Not to be had."""
        raise self._no_map()

    def _no_map(self) -> VariantError:
        return VariantError(f"{self.path} is no linear map: it has no weight that an adapter could be added to")
