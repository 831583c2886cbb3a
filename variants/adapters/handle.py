"""What a function of this room asks of the handle that calls it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from variants.adapters.adapter import Adapter
from variants.adapters.switching import State
from variants.variant import BaseVariant


class Handle(Protocol):
    """A model with adapters on it; :class:`variants.adapters.adapted_model.AdaptedModel` is one.

    Attributes:
        model: the adapted model.
        head: names of the task head's parameters.
        adapters: every adapter by its name.
        active: the name of the active one, if any is.
        state: which is active, whether it acts, and whether it is merged.
    """

    model: nn.Module
    head: list[str]
    adapters: dict[str, Adapter]
    active: str | None

    @property
    def state(self) -> State:
        """For :meth:`restore`."""

    def restore(self, state: State) -> None:
        """Bring a state back."""

    def add(self, name: str, variant: BaseVariant) -> None:
        """Build another adapter and make it the active one."""

    def switch(self, name: str) -> None:
        """Make an adapter the active one."""

    def deactivate(self) -> None:
        """Leave the plain base model."""

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Copy tensors into the active adapter."""
