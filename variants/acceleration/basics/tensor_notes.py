"""What is known of tensors besides their values, kept outside of them and forgotten with them."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

T = TypeVar("T")


class TensorNotes(Generic[T]):
    """A note of one kind for some tensors. It is of that very tensor: views and copies of it have none."""

    def __init__(self) -> None:
        self._notes = WeakTensorKeyDictionary()

    def put(self, tensor: Tensor, note: T) -> T:
        """Keep a note of a tensor, instead of an earlier one; the note."""
        self._notes[tensor] = note
        return note

    def get(self, tensor: Tensor) -> T | None:
        """The note of a tensor, if there is one."""
        return self._notes.get(tensor) if self._notes else None

    def forget(self) -> None:
        """Forget all notes."""
        if self._notes:
            self._notes = WeakTensorKeyDictionary()
