"""BLEU and NIST against sacrebleu and Doddington's formula, and the words of mteval."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules.scores import mteval
from tests.support.e2e_texts import CORPORA, few


def grams(words, n):
    return Counter(zip(*(words[i:] for i in range(n)), strict=False))


def plain_nist(outputs, references):
    """NIST term by term (Doddington 2002, eq. 3), on texts whose tokens are their words; "0" counts as no history."""
    corpus = [
        (out.lower().split(), [ref.lower().split() for ref in group])
        for out, group in zip(outputs, references, strict=True)
    ]
    everything = [sum((grams(ref, n) for _, group in corpus for ref in group), Counter()) for n in range(1, 6)]
    words = sum(everything[0].values())
    total = 0.0
    for n in range(1, 6):
        gain = length = 0
        for out, group in corpus:
            for gram, count in grams(out, n).items():
                length += count
                hits = min(count, max(grams(ref, n)[gram] for ref in group))
                if hits:
                    before = words if n == 1 or gram[:-1] == ("0",) else everything[n - 2][gram[:-1]]
                    gain += hits * math.log2(before / everything[n - 1][gram])
        total += gain / max(1, length)
    share = sum(len(out) for out, _ in corpus) / words * sum(len(group) for _, group in corpus) / len(corpus)
    if share == 0:
        return 0.0
    return total * math.exp(math.log(0.5) / math.log(1.5) ** 2 * math.log(min(1, share)) ** 2)


DIGITS = st.lists(st.sampled_from(["the", "a", "pub", "0", "5"]), max_size=9)


@given(st.lists(st.tuples(DIGITS, st.lists(DIGITS.filter(bool), min_size=1, max_size=3)), min_size=1, max_size=5))
@few
def test_nist_is_doddingtons(rows):
    outputs = [" ".join(words) for words, _ in rows]
    references = [[" ".join(words) for words in group] for _, group in rows]
    assert mteval.nist(outputs, references) == pytest.approx(plain_nist(outputs, references), abs=1e-9)


@given(CORPORA)
@few
def test_bleu_is_sacrebleus_where_all_orders_occur(corpus):
    bleu = pytest.importorskip("sacrebleu", reason="sacrebleu (the extra test) is not installed").corpus_bleu
    outputs, references = corpus
    # sacrebleu gives 0 without any 4-gram, and lower-cases É; with one sure match and no É it has the same definition.
    outputs, references = [*outputs, "a pub in town"], [*references, ["a pub in town"]]
    outputs = [text.replace("É", "e") for text in outputs]
    references = [[text.replace("É", "e") for text in group] for group in references]
    most = max(map(len, references))
    columns = [[group[i] if i < len(group) else None for group in references] for i in range(most)]
    theirs = bleu(outputs, columns, lowercase=True, tokenize="13a", smooth_method="exp").score / 100
    assert mteval.bleu(outputs, references) == pytest.approx(theirs, abs=1e-9)


@given(st.text())
@few
def test_words_of_any_text_hold_no_space(text):
    assert all(word and not set(word) & set(" \t\n\xa0\u3000") for word in mteval.tokenize(text))


def test_mteval_knows_only_ascii_letters_and_digits():
    words = mteval.tokenize('It\'s £1,000.50 ("ÉCOLE") 5-star. <skipped>&amp;')
    assert words == ("it's", "£1,000.50", "(", '"', "École", '"', ")", "5", "-", "star", ".", "&")
