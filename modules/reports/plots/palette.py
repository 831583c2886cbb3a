"""A colour and a marker for every method, the same in all figures and on the report's page.

Colours have a contrast of at least 3 to 1 against white, and differ for colour-blind readers within a family; no two
methods share a marker, so that a figure in grey can be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """What stands for a method.

    Attributes:
        colour: as #RRGGBB.
        marker: matplotlib's name.
    """

    colour: str
    marker: str


METHODS = {
    "full": Mark("#000000", "o"),
    "head": Mark("#757575", "s"),
    "bitfit": Mark("#B8508F", "D"),
    "lora": Mark("#0072B2", "^"),
    "adalora": Mark("#D55E00", "v"),
    "dora": Mark("#B58200", "P"),
    "vera": Mark("#00895F", "*"),
    "adapter_d": Mark("#3493C7", "X"),
    "adapter_h": Mark("#882255", "<"),
    "adapter_l": Mark("#2B8A7D", ">"),
    "adapter_p": Mark("#7C7C1E", "p"),
    "ft_top2": Mark("#AA4499", "h"),
    "prefix_embed": Mark("#332288", "d"),
    "prefix_layer": Mark("#A08000", "8"),
    "prefix_tuning": Mark("#117733", "H"),
    "boft": Mark("#732E11", "$B$"),
    "delora": Mark("#179964", "$\\delta$"),
    "fourierft": Mark("#A51CB8", "$\\sim$"),
    "hra": Mark("#627311", "$U$"),
    "ia3": Mark("#175C99", "$I$"),
    "loha": Mark("#B81C41", "$H$"),
    "lokr": Mark("#117316", "$K$"),
    "lora_fa": Mark("#441799", "$F$"),
    "lora_plus": Mark("#B87F1C", "$+$"),
    "lora_xs": Mark("#11736C", "$X$"),
    "milora": Mark("#99177D", "$M$"),
    "miss": Mark("#112573", "$S$"),
    "mora": Mark("#992317", "$Q$"),
    "oft": Mark("#531173", "$R$"),
    "olora": Mark("#999517", "$O$"),
    "pissa": Mark("#1C8FB8", "$P$"),
    "randlora": Mark("#73113D", "$N$"),
    "vblora": Mark("#2B9917", "$V$"),
    "corda": Mark("#311CB8", "$C$"),
    "eva": Mark("#733B11", "$E$"),
    "galore": Mark("#179975", "$L$"),
    "lora_ga": Mark("#B81CB6", "$G$"),
    "lora_pro": Mark("#557311", "$\\nabla$"),
    "relora": Mark("#174C99", "$W$"),
}
"""The methods of this project; those beyond the first markers have a letter."""
SPARE = tuple(
    Mark(colour, marker)
    for colour, marker in zip(
        ("#C2185B", "#5E35B1", "#00838F", "#8D6E63", "#E64A19", "#455A64", "#7B8B00", "#1565C0"),
        ("o", "s", "D", "^", "v", "P", "X", "p"),
        strict=True,
    )
)
"""For methods from elsewhere."""


def marks(variants: Iterable[str]) -> dict[str, Mark]:
    """A mark for each method; those from elsewhere take `SPARE` ones in the order of their names."""
    names = list(dict.fromkeys(variants))
    others = sorted(name for name in names if name not in METHODS)
    found = METHODS | {name: SPARE[number % len(SPARE)] for number, name in enumerate(others)}
    return {name: found[name] for name in names}
