"""The ways to keep a frozen weight in few bits, by name. No torch here: command lines list them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

from variants.errors import VariantError


class Scheme(NamedTuple):
    """How weights are kept.

    Attributes:
        bits: for each weight, scales included: 4 and a scale of 32 bits for each block of 64 weights; with double
            quantisation scales of 8 bits, and one of 32 for each block of 256 of these (section 3); of int8, 8 and a
            scale for each row.
        quant_type: bitsandbytes' name of the code book; "" of 8 bits.
        double: whether scales are quantised too.
    """

    bits: float
    quant_type: str = ""
    double: bool = False


SINGLE_BITS, DOUBLE_BITS = 4 + 32 / 64, 4 + 8 / 64 + 32 / (64 * 256)
"""Of a weight in 4 bits, without and with double quantisation."""
SCHEMES: Mapping[str, Scheme] = {
    "nf4": Scheme(SINGLE_BITS, "nf4"),
    "nf4-dq": Scheme(DOUBLE_BITS, "nf4", double=True),
    "fp4": Scheme(SINGLE_BITS, "fp4"),
    "fp4-dq": Scheme(DOUBLE_BITS, "fp4", double=True),
    "int8": Scheme(8.0),
}
"""By name, as ``--quantise`` takes them."""


def check_installed() -> None:
    """Raise VariantError where bitsandbytes is not installed, in one line that says how to."""
    if find_spec("bitsandbytes") is None:
        raise VariantError(
            "a base in few bits (--quantise) needs bitsandbytes: pip install 'lora-variants[quant]', or in a clone "
            "pip install -e '.[quant]'"
        )
