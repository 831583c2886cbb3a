"""What every variant must hold to, in the order in which ``variants.check`` tries it. Each property can fail."""

from __future__ import annotations

# they register properties
from variants.contract import (  # noqa: F401
    answers,
    execution,
    places,
    precision,
    recomputation,
    stacking,
    starts,
    state,
    training,
)
from variants.contract.base import PROPERTIES as REGISTERED

PROPERTIES = {
    name: REGISTERED[name]
    for names in (
        ("something trains", "identity at start", "output moves", "gradients", "parameter count", "optimizer"),
        ("base", "buffers", "no host sync"),
        ("merge", "round trip", "resume", "data start", "determinism", "copy", "bf16", "fp64", "nf4"),
        ("slice", "Conv1D", "conv2d"),
        (
            "groups",
            "metrics",
            "size",
            "low rank",
            "per token",
            "learns",
            "meta device",
            "accelerated",
            "stacking",
            "compile",
        ),
        ("checkpointing",),
    )
    for name in names
}
"""Name -> check, which raises ``Broken`` or ``NotApplicable``, and may give a suggestion."""
