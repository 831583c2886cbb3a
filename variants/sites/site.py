"""Where an adapter sits: a linear map or a slice of one, seen as an (out, in) matrix, or another module as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.errors import VariantError


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's transposed linear map, known by its shape so that transformers need not be imported."""
    weight = getattr(module, "weight", None)
    return isinstance(getattr(module, "nf", None), int) and weight is not None and weight.ndim == 2


def is_linear(module: nn.Module) -> bool:
    """A module that computes x W^T + b with a weight this package can read and write."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


@dataclass
class Site:
    """Output features ``start`` to ``stop`` of one module; it lives outside the module tree.

    Attributes:
        module: the base module that the adapter hooks onto.
        path: name in files and patterns: the module's name, plus the slice's label where it is a slice.
        module_path: the module's own name in the model.
        start, stop: the slice of the output features; the whole of them by default.
    """

    module: nn.Module
    path: str
    module_path: str
    start: int = 0
    stop: int = -1

    def __post_init__(self) -> None:
        if self.stop < 0:
            self.stop = self.total_out

    @property
    def span(self) -> tuple[str, int, int]:
        """What it covers, whatever it is called."""
        return self.module_path, self.start, self.stop

    @property
    def total_out(self) -> int:
        """Output features of the whole module."""
        return self.module.weight.shape[1 if is_conv1d(self.module) else 0]

    @property
    def in_features(self) -> int:
        return self.module.weight.shape[0 if is_conv1d(self.module) else 1]

    @property
    def out_features(self) -> int:
        return self.stop - self.start

    @property
    def device(self) -> torch.device:
        return self.module.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.module.weight.dtype

    @property
    def is_whole(self) -> bool:
        return self.out_features == self.total_out

    def weight(self) -> Tensor:
        """The base weight as a view, (out_features, in_features)."""
        weight = self.module.weight
        return (weight.t() if is_conv1d(self.module) else weight)[self.start : self.stop]

    def bias(self) -> Tensor | None:
        """The base bias as a view, (out_features), or None."""
        bias = self.module.bias
        return None if bias is None else bias[self.start : self.stop]

    def times(self, x: Tensor) -> Tensor:
        """x Wᵀ, without the bias: (..., in_features) gives (..., out_features)."""
        return F.linear(x, self.weight())

    @torch.no_grad()
    def write(self, weight: Tensor, bias: Tensor | None) -> None:
        """Overwrite the base weight (and bias) of this site in place."""
        self.weight().copy_(weight)
        if bias is not None and self.bias() is not None:
            self.bias().copy_(bias)


@dataclass
class ModuleSite(Site):
    """A module that is no linear map (a block, a LayerNorm, the backbone), seen by the hidden states that it puts out.

    Attributes:
        like: a linear map inside that writes to the same hidden states: it gives their width, device and dtype.
    """

    like: Site | None = None

    @property
    def total_out(self) -> int:
        return self.like.total_out

    @property
    def in_features(self) -> int:
        return self.like.total_out

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def dtype(self) -> torch.dtype:
        return self.like.dtype

    @property
    def embedding_dim(self) -> int:
        """Width of the embeddings that it takes, which may differ from that of its hidden states (OPT-350m)."""
        embed = getattr(self.module, "get_input_embeddings", None)
        return embed().embedding_dim if embed else self.total_out

    @property
    def ends_with_norm(self) -> bool:
        """The module is a LayerNorm, and the hidden states are its output."""
        return isinstance(self.module, nn.LayerNorm)

    def weight(self) -> Tensor:
        raise VariantError(f"{self.path} is no linear map: it has no weight that an adapter could be added to")

    def bias(self) -> None:
        return None
