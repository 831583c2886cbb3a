"""Scores of answers, on answers written by hand."""

import pytest

from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores import SCORES, scores_named
from variants.errors import UserError

scores_named(())


def row(answer, response="", options=()):
    return Example((("user", "?"),), response or answer, tuple(options), answer)


@pytest.mark.parametrize(
    ("name", "answer", "example", "expected"),
    [
        ("exact", " obat\n", row("obat"), 1),
        ("exact", "Obat", row("obat"), 0),
        ("answer", "the correct answer is answer3", row("answer3", options=["answer1", "answer3"]), 1),
        ("answer", "Answer1. No, answer3", row("answer3", options=["answer1", "answer3"]), 0),
        ("answer", "answer10", row("answer1", options=["answer1", "answer10"]), 0),
        ("answer", "I do not know", row("true", options=["true", "false"]), 0),
        ("number", "So 3 + 4 = 7.", row("7.0"), 1),
        ("number", "It costs $1,004.50", row("1004.5"), 1),
        ("number", "From 7 to 8", row("7"), 0),
        ("number", "none", row("7"), 0),
        ("number", "-3", row("3"), 0),
        ("number", "The answer is (D).", row("D"), 1),
        ("number", "A or B", row("A"), 0),
        ("rouge_l", "the cat sat", row("the cat sat"), 1),
        ("rouge_l", "", row("the cat"), 0),
    ],
)
def test_a_rule_reads_an_answer(name, answer, example, expected):
    assert SCORES[name].of_answer(answer, example) == pytest.approx(expected)


def test_a_score_of_a_file_is_found_by_its_name(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from modules.benchmarks.instruct.scores import score\n\n\n"
        '@score("short", "of few words")\ndef short(answer, example):\n    return float(len(answer.split()) < 3)\n'
    )
    try:
        (found,) = scores_named([f"{file}:short"])
        assert found.of_answer("a b", row("x")) == 1 and found.words == "of few words"
    finally:
        SCORES.pop("short", None)
    with pytest.raises(UserError, match="unknown score 'brevity'; there are exact"):
        scores_named(["brevity"])
