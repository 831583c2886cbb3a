"""Which base model an adapter was trained on: told by its parameters' values, in whatever precision they are held."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from variants.wrappers import plain

_BUCKETS, _PATTERN = 32, 8192
_TOLERANCE = 0.005
"""Numbers rounded to bf16 are off by 0.0023 of their size at most, in the mean square; a base that was trained further
is off by more."""
_LAYOUT = f"<{_BUCKETS + 2}f"


@torch.no_grad()
def fingerprint(model: nn.Module, skip: set[str] = frozenset()) -> str:
    """Content hash of a model's parameters, those in ``skip`` left out; 16 hex digits.

    Values are rounded to bf16 first, so that one base loaded in fp32 and in bf16 has one fingerprint. What was
    rounded to fp16 has another: :func:`sketch`.
    """
    digest = hashlib.sha256()
    for name, parameter in _parameters(model, skip):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.to("cpu", torch.bfloat16).contiguous().view(torch.int16).numpy())
    return digest.hexdigest()[:16]


@torch.no_grad()
def sketch(model: nn.Module, skip: set[str] = frozenset()) -> str:
    """Sums of a model's parameters in which rounding shows as a small difference, as base64.

    Each parameter, divided by its norm, is cut into runs of 32 values; value i of a run is added to sum i with a sign
    that depends on its place. The distance of two models' sums is, but for chance, that of their parameters. After the
    32 sums come how many parameters there are, and whether all have values of 16 bits.
    """
    signs = torch.randint(0, 2, (_PATTERN,), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    sums = torch.zeros(_BUCKETS, dtype=torch.float64)
    count, rounded = 0, {torch.bfloat16, torch.float16}
    for name, parameter in _parameters(model, skip):
        flat = parameter.flatten().to("cpu", torch.promote_types(parameter.dtype, torch.float32))
        rounded -= {dtype for dtype in rounded if not torch.equal(flat.to(dtype).to(flat), flat)}
        norm = flat.norm()
        if not norm > 0 or not norm.isfinite():
            continue
        first = int.from_bytes(hashlib.sha256(f"{name}{tuple(parameter.shape)}".encode()).digest()[:4], "little")
        turned = signs.roll(first % _PATTERN)
        whole = len(flat) // _PATTERN * _PATTERN
        places = flat[:whole].view(-1, _PATTERN).sum(0)
        places[: len(flat) - whole] += flat[whole:]
        sums += (places * turned).double().view(-1, _BUCKETS).sum(0) / norm
        count += 1
    return base64.b64encode(struct.pack(_LAYOUT, *sums.tolist(), count, bool(rounded))).decode()


def alike(one: str | None, other: str | None) -> bool:
    """Whether two sketches are of one base in two precisions, one of which at least has 16 bits."""
    if not one or not other:
        return False
    try:
        a, b = (torch.tensor(struct.unpack(_LAYOUT, base64.b64decode(text))) for text in (one, other))
    except (ValueError, struct.error):
        return False
    (count, first), (same, second) = a[_BUCKETS:].tolist(), b[_BUCKETS:].tolist()
    distance = (a - b)[:_BUCKETS].norm().item()
    return count == same and bool(first or second) and distance <= _TOLERANCE * count**0.5


def _parameters(model: nn.Module, skip: set[str]) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in sorted(model.named_parameters()):
        if name not in skip and ".adapter." not in f".{name}":
            yield plain(name), parameter.detach()
