"""The five E2E scores together: the official numbers, with Java and without, and properties that all of them have."""

import csv
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.scores import FORMULAS, coco, files, java, mteval, score
from tests.support.e2e_texts import CORPORA, OFFICIAL, OUTPUTS, REFERENCES, few, with_meteor

NAMES = ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr")


@pytest.mark.parametrize("case", OFFICIAL)
def test_official_numbers_without_java(case, no_java):
    outputs, references, official = OFFICIAL[case]
    values, missing = score(outputs, references)
    assert tuple(values) == tuple(FORMULAS)
    del values["NIST_python"]  # tests/modules/scores/test_nist_python.py
    assert tuple(values) == NAMES and values["METEOR"] is None and "Java" in missing["METEOR"]
    for name, number in zip(NAMES, official, strict=True):
        assert name == "METEOR" or f"{values[name]:.4f}" == f"{number:.4f}", name


@pytest.mark.slow
@with_meteor
def test_official_numbers_with_java():
    outputs, references, official = OFFICIAL["several references"]
    values, missing = score(outputs, references)
    del values["NIST_python"]
    assert missing == {} and [f"{value:.4f}" for value in values.values()] == [f"{number:.4f}" for number in official]


@pytest.mark.slow
@pytest.mark.skipif("E2E_DIR" not in os.environ, reason="E2E_DIR does not name a folder of the E2E challenge's files")
def test_official_numbers_on_the_real_test_set(no_java, tmp_path):
    """The system under test says one reference of each input without every seventh word (METEOR: 0.4911)."""
    path = Path(os.environ["E2E_DIR"], "testset_w_refs.csv")
    groups: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in list(csv.reader(file))[1:]:
            groups.setdefault(row[0], []).append(row[1])
    with (tmp_path / "out.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["mr", "output"])
        for i, (meaning, group) in enumerate(groups.items()):
            words = group[i % len(group)].split()
            writer.writerow([meaning, " ".join(word for j, word in enumerate(words) if j % 7 != 3)])
    values, _ = score(*files.read(path, tmp_path / "out.csv"))
    assert f"{values.pop('NIST_python'):.4f}" == "10.5723"
    said = [f"{value:.4f}" for value in values.values() if value is not None]
    assert len(groups) == 630 and said == ["0.7169", "10.8292", "0.9094", "1.9875"]


# --- properties -----------------------------------------------------------------------------------------------------


@given(CORPORA, st.randoms(use_true_random=False))
@few
def test_order_and_case_do_not_matter(corpus, draw):
    outputs, references = corpus
    rows = [(out, draw.sample(group, len(group))) for out, group in zip(outputs, references, strict=True)]
    draw.shuffle(rows)
    shuffled = tuple(map(list, zip(*rows, strict=True)))
    for formula in (mteval.bleu, mteval.nist, coco.rouge_l, coco.cider):
        assert formula(*shuffled) == pytest.approx(formula(outputs, references), abs=1e-9)
    louder = [output.translate(str.maketrans(string.ascii_lowercase, string.ascii_uppercase)) for output in outputs]
    assert mteval.bleu(louder, references) == mteval.bleu(outputs, references)
    assert mteval.nist(louder, references) == mteval.nist(outputs, references)


@given(CORPORA)
@few
def test_scores_keep_their_bounds(corpus):
    outputs, references = corpus
    assert 0 <= mteval.bleu(outputs, references) <= 1 and 0 <= coco.rouge_l(outputs, references) <= 1
    assert 0 <= coco.cider(outputs, references) <= 10 + 1e-9 and mteval.nist(outputs, references) >= 0
    first = [group[0] for group in references]
    assert mteval.bleu(first, references) == coco.rouge_l(first, references) == pytest.approx(1)
    empty = [""] * len(outputs)
    assert mteval.bleu(empty, references) == mteval.nist(empty, references) == coco.cider(empty, references) == 0


def test_meteor_is_not_made_of_something_else(no_java):
    with pytest.raises(java.Unavailable, match="METEOR needs a Java runtime"):
        FORMULAS["METEOR"](OUTPUTS, REFERENCES)
    values, missing = score(OUTPUTS, REFERENCES)
    assert values["METEOR"] is None and "METEOR needs a Java runtime" in missing["METEOR"]
    assert all(values[name] is not None for name in FORMULAS if name != "METEOR")
