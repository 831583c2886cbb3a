"""ROUGE-L and CIDEr against their formula and pycocoevalcap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.scores import coco
from tests.support.e2e_texts import few, with_meteor


def longest_common(a, b):
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common(a[:-1], b[:-1])
    return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


@given(st.text("abc", min_size=1, max_size=6), st.text("abc", min_size=1, max_size=6))
@few
def test_rouge_l_is_the_f_score_of_the_longest_common_subsequence(a, b):
    common = longest_common(a, b)
    precision, recall = common / len(a), common / len(b)
    want = 2.44 * precision * recall / (recall + 1.44 * precision) if common else 0
    assert coco.rouge_l([" ".join(a)], [[" ".join(b)]]) == pytest.approx(want)


@with_meteor
def test_rouge_l_and_cider_are_pycocoevalcaps():
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    outputs = ["a cheap pub by the river", "", "the pub", "a a a b", "3\xa01/2 stars"]
    references = [["a pub by the river", "the cheap pub"], ["a b"], ["", "the pub"], ["a b a"], ["3\xa01/2 stars"]]
    theirs = dict(enumerate(references)), {i: [output] for i, output in enumerate(outputs)}
    assert coco.rouge_l(outputs, references) == pytest.approx(Rouge().compute_score(*theirs)[0], abs=1e-12)
    assert coco.cider(outputs, references) == pytest.approx(Cider().compute_score(*theirs)[0], abs=1e-12)
