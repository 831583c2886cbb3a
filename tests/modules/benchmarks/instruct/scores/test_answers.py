"""Scores of answers, on answers written by hand."""

import pytest

from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores import SCORES, score, scores_named
from modules.scores import FORMULAS, java
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


def test_rouge_l_of_a_row_is_the_corpus_s_and_starts_no_java(monkeypatch):
    pairs = [("It isn't (quite) Mr. Smith's, is it?", "It is not Mr. Smith's."), ("a b.\nc d", "a c d"), ("...", "so")]
    expected = [FORMULAS["ROUGE_L"]([answer], [[response]]) for answer, response in pairs]
    monkeypatch.setattr(java, "stanford", lambda lines: pytest.fail("Java is started"))
    found = [SCORES["rouge_l"].of_answer(answer, row(response)) for answer, response in pairs]
    assert found == expected and 0 < found[0] < 1 and found[2] == 0


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


def test_a_score_of_a_package_is_found_by_its_entry_point(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(
        "from modules.benchmarks.instruct.scores import score\n\n\n"
        '@score("loud", "in capitals")\ndef loud(answer, example):\n    return answer.isupper()\n'
    )
    folder = tmp_path / "my_scores-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-scores\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[lora_variants.scores]\nloud = my_scores\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        (found,) = scores_named(["loud"])
        assert found.value("YES", row("x")) == 1 and found.value("yes", row("x")) == 0
    finally:
        SCORES.pop("loud", None)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("return len(answer) / len(answer.strip())", "fails on the answer '': faulty.py:6: ZeroDivisionError"),
        ("return float('nan')", "gives nan for the answer"),
        ("return None", "fails on the answer"),
    ],
)
def test_a_score_that_fails_is_one_line_before_anything_is_trained(tmp_path, body, fault):
    file = tmp_path / "faulty.py"
    file.write_text(
        "from modules.benchmarks.instruct.scores import score\n\n\n"
        f'@score("faulty", "")\ndef faulty(answer, example):\n    {body}\n'
    )
    try:
        (found,) = scores_named([f"{file}:faulty"])
        with pytest.raises(UserError, match=fault):
            found.check([row("x")])
    finally:
        SCORES.pop("faulty", None)


def test_a_name_is_given_once():
    with pytest.raises(UserError, match="score 'exact': the name is taken"):
        score("exact", "mine")(lambda answer, example: 1.0)


@pytest.mark.parametrize(("name", "needs"), [("choice", "options"), ("answer", "answer"), ("number", "answer")])
def test_rows_that_lack_what_a_score_needs_are_refused(name, needs):
    rows = [row("x", options=["x", "y"]), row("", "a response")]
    SCORES[name].check(rows[:1])
    with pytest.raises(UserError, match=f"--scores {name}: 1 of 2 rows that are scored have no {needs}"):
        SCORES[name].check(rows)
