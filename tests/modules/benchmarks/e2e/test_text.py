"""Meaning representations and sentences in the forms of the challenge and of the authors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.benchmarks.e2e.text import LINEARISATIONS, read_authors_mr, read_csv_mr, spaced


@pytest.mark.parametrize(
    "split, raw, expected",
    [
        ("train", "It isn't £20-25, it's St. John's.", "It isn 't £ 20 - 25 , it 's St. John 's ."),
        ("validation", "A 5-star pub (£20-£25) .price: 10.50..", "A 5 - star pub ( £ 20- £ 25 ) .price : 10.50 .."),
        ("test", 'It isn\'t £20-25; thats 5-star: "X".', 'It is n\'t £ 20 - 25 ; that s 5-star : " X " .'),
    ],
)
def test_spacing_is_that_of_each_split(split, raw, expected):
    assert spaced(raw, split) == expected


def test_a_real_meaning_representation_in_all_forms():
    text = "name[Blue Spice], eatType[pub], priceRange[less than £20], customer rating[5 out of 5], familyFriendly[no]"
    slots = read_csv_mr(text)
    authors = (
        "name : Blue Spice | Type : pub | price : less than £ 20 | customer rating : 5 out of 5 | family friendly : no"
    )
    assert LINEARISATIONS["authors"](slots) == authors
    assert LINEARISATIONS["challenge"](slots) == text.replace("£20", "£ 20")
    assert LINEARISATIONS["words"](slots).startswith("name is Blue Spice. Type is pub. price is less than £ 20.")


_word = st.text("abcXYZé£123", min_size=1, max_size=6)


@given(st.lists(st.tuples(_word, st.lists(_word, min_size=1, max_size=3).map(" ".join)), min_size=1, max_size=8))
def test_the_authors_form_can_be_read_back(slots):
    slots = tuple(slots)
    assert read_authors_mr(LINEARISATIONS["authors"](slots)) == slots
