"""The forms of instruction data: each gives the example that it means, and what is malformed is named."""

import pytest

from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.rows.forms import Malformed, example_of, form_of

CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
ROWS = [
    ({"messages": CHAT}, Example((("user", "2 + 2?"),), "4")),
    (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        Example((("user", "hi"),), "ho"),
    ),
    ({"prompt": "2 + 2 =", "completion": " 4"}, Example((("user", "2 + 2 ="),), " 4", templated=False)),
    ({"prompt": CHAT[:1], "completion": CHAT[1:]}, Example((("user", "2 + 2?"),), "4")),
    ({"instruction": "Add.", "input": "2, 2", "output": "4"}, Example((("user", "Add.\n\n2, 2"),), "4")),
    (
        {"instruction": "Is it?", "input": "", "output": "the correct answer is true", "answer": "true"},
        Example((("user", "Is it?"),), "the correct answer is true", answer="true"),
    ),
    (
        {"question": "How many?", "answer": "Two and two.\n#### 1,004"},
        Example((("user", "How many?"),), "Two and two.\n#### 1,004", answer="1004"),
    ),
    ({"text": "Once."}, Example((), "Once.", templated=False)),
]


@pytest.mark.parametrize(
    ("row", "expected"), ROWS, ids=lambda value: "-".join(value) if isinstance(value, dict) else ""
)
def test_a_form_is_found_and_read(row, expected):
    found = example_of(row, form_of(row))
    assert found == expected
    assert Example.read(found.written()) == found


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"inst": "a"}, "has the keys inst; a row needs one of: messages"),
        ({"messages": CHAT[:1]}, "ends with user's turn"),
        ({"messages": "hi"}, "'messages' is a text, and no list"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "message 1 has the role 'boss'"),
        ({"messages": [*CHAT[:1], {"role": "assistant", "content": None}]}, "message 2 has no text"),
        ({"instruction": "a", "output": ""}, "'output' is empty"),
        ({"instruction": 3, "output": "b"}, "'instruction' is a number, and no text"),
        ({"instruction": "a", "output": "b", "answer": "c", "options": ["d", "e"]}, "'c' is none of its options: d, e"),
        ({"text": ["a"]}, "'text' is a list"),
        ({"text": "a\ud83d"}, "'text' has half a character, .ud83d: take it out"),
        ({"messages": [{"role": "user", "content": "\ud83d"}, CHAT[1]]}, "message 1 has half a character"),
    ],
)
def test_what_is_malformed_is_named(row, said):
    with pytest.raises(Malformed, match=said.replace("(", r"\(")):
        example_of(row, form_of(row))


def test_rows_of_one_file_have_one_form():
    with pytest.raises(Malformed, match="lacks 'instruction', which the rows before it have"):
        example_of({"text": "a"}, "instruction and output")
    with pytest.raises(Malformed, match="is a list, and no object"):
        example_of([1], "text")
