"""What every variant must hold to, in the order in which ``variants.check`` tries it. Each property can fail."""

from __future__ import annotations

from variants.contract import execution, places, precision, state, training  # noqa: F401 (they register properties)
from variants.contract.base import PROPERTIES as REGISTERED

PROPERTIES = {
    name: REGISTERED[name]
    for name in (
        *(
            "identity at start",
            "output moves",
            "gradients",
            "merge",
            "round trip",
            "bf16",
            "fp64",
            "determinism",
            "copy",
        ),
        *("compile", "accelerated", "no host sync", "parameter count", "slice", "Conv1D", "learns", "meta device"),
    )
}
"""Name -> check, which raises ``Broken`` or ``NotApplicable``."""
