"""When a pass is computed in another way than PyTorch's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from variants.acceleration.basics import torch_private

LARGE = 2**24
"""Bytes of an input from which on memory counts: it is computed again in the backward pass where that needs nothing
that is not kept anyway, and maps that read it are one operation with their updates (`products/updated_maps.py`). Of
smaller ones launches count more."""


def plain(x: Tensor) -> bool:
    """Whether ``x`` is computed with as it is: by no compiler, function transform or autocast to another dtype, and not
    nested, nor patches that are not formed."""
    if not isinstance(x, Tensor):
        return False
    if torch.compiler.is_compiling() or torch_private.function_transforms_active() or x.is_meta or x.is_nested:
        return False
    kind = x.device.type
    return not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) == x.dtype


def few_kernels(x: Tensor) -> bool:
    """Whether what reads ``x`` is to be computed in as few operations and as little memory as can be, by functions of
    our own."""
    return not x.is_nested and pays(x.nbytes) and plain(x)


def large(x: Tensor) -> bool:
    """Whether ``x`` is so large that memory and passes over it count, and launches do not."""
    return x.nbytes >= LARGE


def has_triton(x: Tensor) -> bool:
    """Whether Triton's programs can compute with ``x`` as it is."""
    return x.is_cuda and plain(x) and importlib.util.find_spec("triton") is not None


def pays(nbytes: int) -> bool:
    """Whether functions of our own, which cost the host more than PyTorch's, pay for tensors of a size: in a CUDA
    graph, and where they are large."""
    return _for_graph or nbytes >= LARGE


_for_graph = False


def is_for_graph() -> bool:
    """Whether passes are computed as a CUDA graph is to have them."""
    return _for_graph


@contextmanager
def for_graph(on: bool = True) -> Iterator[None]:
    """``with`` this, passes are computed as a CUDA graph is to have them, whatever that costs the host; or not."""
    global _for_graph
    before, _for_graph = _for_graph, on
    try:
        yield
    finally:
        _for_graph = before


_checkpointed = False


def is_checkpointed() -> bool:
    """Whether gradient checkpointing is going through a block, for the first time or again: what is kept in it lives
    for that block alone, and computing more of it a third time does not pay."""
    return _checkpointed


@contextmanager
def checkpointed() -> Iterator[None]:
    """``with`` this, a block is computed that gradient checkpointing goes through twice."""
    global _checkpointed
    before, _checkpointed = _checkpointed, True
    try:
        yield
    finally:
        _checkpointed = before


@contextmanager
def large_from(nbytes: int) -> Iterator[None]:
    """``with`` this, tensors of so many bytes and more are large."""
    global LARGE
    before, LARGE = LARGE, nbytes
    try:
        yield
    finally:
        LARGE = before
