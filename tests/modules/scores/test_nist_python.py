"""NIST as the challenge's scorer has it with `-p`, against the same definition written out sentence by sentence."""

import csv
import math
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.scores import mteval
from modules.scores.nist_python import nist_python, tokenize
from tests.support.e2e_texts import CORPORA, few


def grams(words, n):
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def written_out(outputs, references):
    """The scorer's definition on texts whose tokens are their words; counts are kept sentence by sentence."""
    pairs = zip(outputs, references, strict=True)
    corpus = [(out.lower().split(), [ref.lower().split() for ref in group]) for out, group in pairs]
    seen = [Counter(gram for _, group in corpus for ref in group for gram in grams(ref, n)) for n in range(1, 6)]
    seen = [Counter({(): sum(seen[0].values())}), *seen]
    score = 0.0
    for n in range(1, 6):
        information = 0.0
        for out, group in corpus:
            for gram, count in Counter(grams(out, n)).items():
                hits = min(count, max(grams(ref, n).count(gram) for ref in group))
                if hits:
                    information += hits * math.log(seen[n - 1][gram[:-1]] / seen[n][gram], 2)
        length = sum(len(out) - (n - 1) for out, _ in corpus)  # less than nothing for an output of fewer words
        score += information / length if length > 0 else 0.0
    ratio = sum(len(out) for out, _ in corpus) / sum(sum(map(len, group)) / len(group) for _, group in corpus)
    return score * (1.0 if ratio >= 1 else 0.0 if ratio <= 0 else 0.5 ** ((math.log(ratio) / math.log(1.5)) ** 2))


WORDS = st.lists(st.sampled_from(["the", "a", "Pub", "0", "5"]), min_size=1, max_size=9)


@given(st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=4)), min_size=1, max_size=5))
@few
def test_it_is_the_scorers_definition(rows):
    outputs = [" ".join(words) for words, _ in rows]
    references = [[" ".join(words) for words in group] for _, group in rows]
    assert nist_python(outputs, references) == pytest.approx(written_out(outputs, references), abs=1e-9)


@given(st.lists(st.tuples(st.permutations(["the", "pub", "by", "river"]), st.permutations(["a", "pub", "the", "by"]))))
@few
def test_where_inputs_have_equally_many_references_both_forms_agree(rows):
    """What differs is the length of references, which mteval averages over the corpus."""
    outputs = ["the pub by the river", *(" ".join(words) for words, _ in rows)]
    references = [["a pub by the river"], *([" ".join(words)] for _, words in rows)]
    assert nist_python(outputs, references) == pytest.approx(mteval.nist(outputs, references), abs=1e-9)


@given(CORPORA)
@few
def test_it_is_a_number_from_0(corpus):
    value = nist_python(*corpus)
    assert math.isfinite(value) and value >= 0


def test_words():
    assert tokenize("Café ÉCLAIR, 3-star") == ("café", "éclair", ",", "3", "-", "star")
    assert tokenize("") == tokenize("  ") == ("",)


@pytest.mark.skipif("E2E_DIR" not in os.environ, reason="E2E_DIR does not name a folder of the E2E challenge's files")
def test_the_two_forms_on_the_real_test_set():
    """The shortest reference of each input: long inputs have more references, and mteval's penalty is the milder."""
    groups: dict[str, list[str]] = {}
    with Path(os.environ["E2E_DIR"], "testset_w_refs.csv").open(encoding="utf-8", newline="") as file:
        for meaning, reference in list(csv.reader(file))[1:]:
            groups.setdefault(meaning, []).append(reference)
    references = list(groups.values())
    outputs = [min(group, key=len) for group in references]
    assert f"{mteval.nist(outputs, references):.4f} {nist_python(outputs, references):.4f}" == "11.5428 11.1015"
