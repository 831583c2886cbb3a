"""The ordinary way to keep the matrix of a linear map, from which the others in `variants.sites.kinds` derive."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from variants.sites.kinds.patches import Window
from variants.sites.kinds.rows import Rows


class Plain:
    """``torch.nn.Linear``: a parameter ``weight`` of shape (out, in)."""

    readable = True
    """The matrix can be read from the parameter and written to it."""
    sees_batch = True
    """The module gets the rows of a batch in their order: not tokens that somebody has chosen."""

    def fits(self, module: nn.Module) -> bool:
        """Whether a module keeps its matrix in this way."""
        return isinstance(module, nn.Linear)

    def parameter(self, module: nn.Module) -> nn.Parameter:
        """The module's parameter that holds the matrix, in whatever form."""
        return module.weight

    def shape(self, module: nn.Module) -> tuple[int, int]:
        """(out_features, in_features) of the whole map."""
        return tuple(module.weight.shape)

    def dtype(self, module: nn.Module) -> torch.dtype:
        """What the module computes in."""
        return module.weight.dtype

    def transposes(self, module: nn.Module) -> bool:
        """Whether the module keeps the matrix as (in, out)."""
        return False

    def weight(self, module: nn.Module, rows: Rows) -> Tensor:
        """Rows of the matrix, (out_features, in_features); a view where the rows lie side by side."""
        return rows.of(self._matrix(module))

    def times(self, module: nn.Module, rows: Rows, x: Tensor) -> Tensor:
        """x Wᵀ, (..., in_features) -> (..., out_features)."""
        return F.linear(x, self.weight(module, rows))

    def write(self, module: nn.Module, rows: Rows, weight: Tensor) -> None:
        """Replace rows of the matrix in place."""
        rows.write(self._matrix(module), weight)

    def kept(self, module: nn.Module, rows: Rows) -> Any:
        """An exact copy of what :meth:`write` changes, in the module's form."""
        return rows.of(self._matrix(module).detach()).clone()

    def restore(self, module: nn.Module, rows: Rows, kept: Any) -> None:
        """Bring back what :meth:`kept` gave."""
        rows.write(self._matrix(module), kept)

    def pack_again(self, module: nn.Module) -> bool:
        """Where a dense weight stands in for a packed one, put the packed one back; whether there was one."""
        return False

    def window(self, module: nn.Module) -> Window | None:
        """Which patches of its input the module multiplies, where these are its rows; else the input's own are."""
        return None

    def probe(self, module: nn.Module, rows: int, rng: torch.Generator) -> Tensor:
        """Random inputs that the module can be called with, of about so many rows."""
        return torch.randn(rows, self.shape(module)[1], generator=rng)

    def unshare(self, module: nn.Module) -> None:
        """Give the module a copy of its parameter, so that writing changes no other module."""
        module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)

    def _matrix(self, module: nn.Module) -> Tensor:
        return module.weight
