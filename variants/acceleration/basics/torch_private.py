"""Every private call of PyTorch that acceleration makes, each behind a documented function.

PyTorch may rename or remove these names in any release. They are looked up once, when this file is imported: where one
is missing, :func:`available` is False, training computes everything with PyTorch's public operations
(`modules.training.acceleration`), and the results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor

TESTED = {
    "2.11": "the committed results, on an NVIDIA H100",
    "2.13": "the test suite, on a CPU",
}
"""PyTorch versions that acceleration is known to work with, and how that is known."""

NAMES = {
    "_C._are_functorch_transforms_active": "function_transforms_active",
    "_softmax_backward_data": "softmax_backward",
    "multiprocessing.reductions.StorageWeakRef": "memory",
    "utils.checkpoint._checkpoint_without_reentrant_generator": "recomputed_in",
    "ops.aten._flash_attention_forward": "flash_attention",
    "ops.aten._flash_attention_backward": "flash_attention, whose gradient autograd computes with it",
    "_foreach_abs": "foreach_abs",
    "_foreach_add_": "foreach_add_",
    "_foreach_copy_": "foreach_copy_",
    "_foreach_lerp_": "foreach_lerp_",
    "_foreach_mul": "foreach_mul",
    "_foreach_mul_": "foreach_mul_",
    "_foreach_norm": "foreach_norm",
    "_foreach_sub": "foreach_sub",
}
"""Each private name below ``torch``, and the function of this file that uses it."""


def _exists(name: str) -> bool:
    try:
        reduce(getattr, name.split("."), torch)
    except AttributeError:
        return False
    return True


MISSING = tuple(name for name in NAMES if not _exists(name))
"""The private names that the installed PyTorch lacks."""


def available() -> bool:
    """Whether the installed PyTorch has every private name that acceleration uses."""
    return not MISSING


def why_unavailable() -> str:
    """One line for the person: what is missing in which version of PyTorch; empty where nothing is missing."""
    if available():
        return ""
    return (
        f"acceleration is off: PyTorch {torch.__version__} has no torch.{MISSING[0]} (tested with PyTorch "
        f"{' and '.join(TESTED)}); the results are the same, training is slower"
    )


# ---- function transforms -------------------------------------------------------------------------------------------


def function_transforms_active() -> bool:
    """Whether a transform of ``torch.func`` (``vmap``, ``grad``, ...) is computing."""
    return torch._C._are_functorch_transforms_active()


# ---- attention -----------------------------------------------------------------------------------------------------


def softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    """The gradient of the scores, given that of ``weights = softmax(scores, -1)``; all three have one shape."""
    return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_bounds: Tensor,
    key_bounds: Tensor,
    query_width: int,
    key_width: int,
    dropout: float,
    scale: float,
    causal: bool = False,
    window: int | None = None,
) -> Tensor:
    """Varlen flash attention on a GPU in 16-bit precision; autograd knows its gradient.

    Args:
        query: (M, heads, d); key, value: (N, kv_heads, d): the rows' tokens one behind the other; heads is a multiple
            of kv_heads.
        query_bounds, key_bounds: (rows + 1,) int32: where each row's queries and keys begin, and M and N.
        query_width, key_width: at least the queries and the keys of the longest row.
        dropout: share of the attention weights that is dropped.
        scale: of the products of queries and keys.
        causal: a query sees the keys up to its own place in the row, ``window`` of them at most.

    Returns:
        (M, heads, d).
    """
    rows = query_bounds, key_bounds, query_width, key_width
    sees = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    return torch.ops.aten._flash_attention_forward(
        query, key, value, *rows, dropout, causal, False, scale=scale, **sees
    )[0]


# ---- memory --------------------------------------------------------------------------------------------------------


def memory(tensor: Tensor) -> Hashable:
    """Which memory a tensor is in; other memory at the same address is another. It is not kept for that."""
    return torch.multiprocessing.reductions.StorageWeakRef(tensor.untyped_storage())


# ---- one kernel for many tensors -----------------------------------------------------------------------------------


def foreach_copy_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target."""
    torch._foreach_copy_(targets, sources)


def foreach_add_(targets: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    """targets[i] += others[i]."""
    torch._foreach_add_(targets, others)


def foreach_sub(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """tensors[i] - others[i]."""
    return torch._foreach_sub(tensors, others)


def foreach_mul(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """tensors[i] * others[i]."""
    return torch._foreach_mul(tensors, others)


def foreach_mul_(targets: Sequence[Tensor], factors: Sequence[Tensor] | Tensor | float) -> None:
    """targets[i] *= factors[i], or every target by one factor."""
    torch._foreach_mul_(targets, factors)


def foreach_abs(tensors: Sequence[Tensor]) -> list[Tensor]:
    """|tensors[i]|."""
    return torch._foreach_abs(tensors)


def foreach_lerp_(targets: Sequence[Tensor], ends: Sequence[Tensor], weight: float) -> None:
    """targets[i] += weight * (ends[i] - targets[i])."""
    torch._foreach_lerp_(targets, ends, weight)


def foreach_norm(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each tensor, ()."""
    return torch._foreach_norm(tensors)


# ---- gradient checkpointing ------------------------------------------------------------------------------------------


@contextmanager
def recomputed_in(
    first: Callable[[], AbstractContextManager], moment: Callable[[], Callable[[], AbstractContextManager]]
) -> Iterator[None]:
    """``with`` this, what gradient checkpointing runs is recomputed inside a block of its own, whenever that is.

    It holds for the kind that is not reentrant, which compares what it recomputes with what it has seen.

    Args:
        first: makes a block that something runs in for the first time.
        moment: called when something runs for the first time; what it gives makes a block for each recomputation.
    """
    module = torch.utils.checkpoint
    plain = module._checkpoint_without_reentrant_generator

    def generator(
        function: Callable,
        rng: bool,
        contexts: Callable,
        check: str,
        debug: bool,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        def both() -> tuple[AbstractContextManager, AbstractContextManager]:
            forward, again = contexts()
            return _Together(forward, first), _Together(again, moment())

        as_they_are = debug or torch.compiler.is_compiling()  # which take no contexts of a caller's
        return plain(function, rng, contexts if as_they_are else both, check, debug, *args, **kwargs)

    module._checkpoint_without_reentrant_generator = generator
    try:
        yield
    finally:
        module._checkpoint_without_reentrant_generator = plain


class _Together:
    """A context and a new block inside it, which may be entered again."""

    def __init__(self, outer: AbstractContextManager, block: Callable[[], AbstractContextManager]) -> None:
        self._outer, self._block = outer, block
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            stack.enter_context(self._outer)
            stack.enter_context(self._block())
            self._entered.append(stack.pop_all())

    def __exit__(self, *error: Any) -> bool | None:
        return self._entered.pop().__exit__(*error)


# ---- optimizers ----------------------------------------------------------------------------------------------------


def expect_uncaptured_steps(optimizer: torch.optim.Optimizer) -> None:
    """Tell a capturable optimizer that its first steps are eager on purpose, so that it does not warn of them."""
    optimizer._warned_capturable_if_run_uncaptured = True


# ---- torch.compile ---------------------------------------------------------------------------------------------------


def allow_recompilations(limit: int) -> None:
    """How often ``torch.compile`` may compile a function anew before it leaves it eager."""
    import torch._dynamo  # takes a second, and only who compiles needs it

    torch._dynamo.config.recompile_limit = limit
