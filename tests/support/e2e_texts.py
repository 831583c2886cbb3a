"""Outputs and references that the official E2E scorer was run on, and corpora drawn at random.

The fixed numbers were obtained by running `measure_scores.py` of tuetschek/e2e-metrics (commit 1b9c4d8, default
options: mteval in Perl) on exactly these texts, with Java 17 and the jars of pycocoevalcap 1.2.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from modules.scores import java

VAULTS = [
    "The Vaults pub near Café Adriatic has a 5 star rating.  Prices start at £30.",
    "Near Café Adriatic, The Vaults is a 5-star pub with prices from £30.",
]

REFERENCES = [
    VAULTS,
    ['Blue Spice is a "family-friendly" coffee shop, isn\'t it?'],
    [
        "It's a cheap (£20-25) pub in the U.S. The food is good...",
        "A cheap pub; prices: £20-25.",
        "Cheap pub food costs £20-25 in the U.S.",
    ],
    ["Zizzi is ÉLÉGANT & naïve: 3.5/5.", "Zizzi, rated 3.5 / 5, is élégant."],
    ["0 1 0 2 stars, 1,000 reviews - 10% off!"],
    VAULTS,
    [
        "<b>Green Man</b> &amp; Strada [city centre] {riverside} http://example.com/menu",
        "The 'Green Man' and “Strada” are by the riverside…",
    ],
    ["no"],
]

OUTPUTS = [
    "The Vaults, a 5-star pub near CAFÉ ADRIATIC, has prices from £30.",
    'Blue Spice is a "family-friendly" coffee shop.',
    "",
    "zizzi is élégant & NAÏVE: 3.5/5.",
    "0 1 stars, 1,000 reviews - 10% off",
    "The Vaults, a 5-star pub near CAFÉ ADRIATIC, has prices from £30.",
    "<b>Green Man</b> & Strada — by the riverside…",
    "No",
]

OFFICIAL = {
    "several references": (OUTPUTS, REFERENCES, (0.5586, 4.0121, 0.4103, 0.7195, 4.2297)),
    "one reference": (OUTPUTS, [group[:1] for group in REFERENCES], (0.2924, 2.5522, 0.3686, 0.7012, 4.4219)),
    "no n-gram of the highest orders": (
        ["a cheap pub", "blue spice"],
        [["a cheap pub"], ["the pub", "blue spice pub"]],
        (1.0, 2.6363, 0.4725, 0.8861, 4.8022),
    ),
    "no match, and an empty output": (
        ["the dear restaurant of Rome", ""],
        [["a cheap pub in town"], ["the pub", "blue spice pub"]],
        (0.0358, 0.0, 0.0, 0.0, 0.0),
    ),
}

with_meteor = pytest.mark.skipif(java.missing() is not None, reason=f"not compared: {java.missing()}")

WORDS = st.lists(
    st.sampled_from(["the", "a", "pub", "cheap", "0", "5", "£20", "É", ",", "family-friendly"]), max_size=9
)

TEXTS = WORDS.map(" ".join)

GROUPS = st.lists(WORDS.filter(bool).map(" ".join), min_size=1, max_size=3)

CORPORA = st.lists(st.tuples(TEXTS, GROUPS), min_size=1, max_size=5).map(
    lambda rows: tuple(map(list, zip(*rows, strict=True)))
)

few = settings(deadline=None, max_examples=60)
