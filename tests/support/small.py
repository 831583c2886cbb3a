"""Methods by name with sizes that tiny models have room for."""

from __future__ import annotations

from variants.registry import resolve
from variants.variant import BaseVariant

SIZES = {
    "oft": {"block": 4},
    "boft": {"block": 4},
    "miss": {"r": 4},
    "fourierft": {"n": 30},
    "lora_xs": {"r": 4},
    "randlora": {"r": 4},
}
"""Options where the default asks for more than 16 features."""


def small(name: str) -> BaseVariant:
    """The method with its default options, but for `SIZES`."""
    return resolve(name)(**SIZES.get(name, {}))
