"""BLEU and NIST as `mteval-v13a-sig.pl` computes them inside the E2E challenge's scorer.

The challenge's `measure_scores.py` runs that Perl script with its defaults unless told otherwise, so the Perl is the
definition here. Its choices, on which other packages differ:

* Tokens: the script's own rules for Western languages, in ASCII: only A-Z is lower-cased ("É" and "é" stay two
  words), every ASCII symbol stands alone but for the hyphen inside words, the apostrophe, and the point or comma
  between digits.
* BLEU: 4-grams, closest reference length (of two equally close the shorter). An order without a match counts
  1 / (2^k * total) with k = 1 for the first such order, 2 for the next, over the whole corpus; an order of which the
  outputs have no n-gram at all counts 1. (sacrebleu lower-cases all of Unicode and gives 0 for such outputs.)
* NIST: 5-grams, information weights over all references, and a length penalty on the outputs' words against all
  reference words divided by the *average number* of references (`nist_python` has the scorer's other form).
* An empty output adds nothing but its reference length; an empty reference is as good as absent, except that the first
  reference of an input may still be the closest in length.

Sources: Papineni et al. 2002; Doddington 2002, equations 3 and 4; mteval-v13a.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

BLEU_ORDER, NIST_ORDER = 4, 5

# Perl's \s on Unicode text; Python's also takes the separators \x1c to \x1f.
_SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_ENTITIES = (("<skipped>", ""), ("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = (
    (re.compile(r"([ -&(-+/:-@\[-`{-~])"), r" \1 "),  # a symbol stands alone
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # so do point and comma, unless after a digit
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),  # ... or before one
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),  # and a hyphen after a digit
)
_SPACES = re.compile(_SPACE)


def tokenize(text: str) -> tuple[str, ...]:
    """The words of a text by mteval-v13a's rules, ASCII letters in lower case; () where nothing is left."""
    text = _SPACES.sub(" ", text)
    for entity, character in _ENTITIES:
        text = text.replace(entity, character)
    text = f" {text} ".translate(_LOWER)
    for pattern, spaced in _RULES:
        text = pattern.sub(spaced, text)
    return tuple(word for word in _SPACES.split(text) if word)


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU in [0, 1] of N outputs against N groups of references."""
    matches, totals = [0] * (BLEU_ORDER + 1), [0] * (BLEU_ORDER + 1)
    output_words = reference_words = 0
    for output, group in _tokenized(outputs, references):
        allowed = most(group, BLEU_ORDER)
        for ngram, count in ngrams(output, BLEU_ORDER).items():
            totals[len(ngram)] += count
            matches[len(ngram)] += min(count, allowed[ngram])
        output_words += len(output)
        reference_words += _closest_length(output, group)
    if not output_words:
        return 0.0
    log_precision, smoothing = 0.0, 1
    for match, total in zip(matches[1:], totals[1:], strict=True):
        if total and not match:
            smoothing *= 2
        if total:
            log_precision += math.log((match or 1 / smoothing) / total)
    brevity = min(0.0, 1 - reference_words / output_words)
    return math.exp(log_precision / BLEU_ORDER + brevity)


def nist(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus NIST (bits, from 0 up) of N outputs against N groups of references, each with one that has words."""
    corpus = list(_tokenized(outputs, references))
    counts: Counter[tuple[str, ...]] = Counter()
    for _, group in corpus:
        for reference in group:
            counts.update(ngrams(reference, NIST_ORDER))
    reference_words = sum(count for ngram, count in counts.items() if len(ngram) == 1)

    def information(ngram: tuple[str, ...]) -> float:
        """log2(count of the n-gram without its last word / count of the n-gram); eq. 3."""
        history = ngram[:-1]
        # To Perl the one-word history "0" is false, as no history is: it too is weighed against all words.
        return math.log2((reference_words if history in ((), ("0",)) else counts[history]) / counts[ngram])

    gains, totals = [0.0] * (NIST_ORDER + 1), [0] * (NIST_ORDER + 1)
    for output, group in corpus:
        allowed = most(group, NIST_ORDER)
        for ngram, count in ngrams(output, NIST_ORDER).items():
            totals[len(ngram)] += count
            if ngram in allowed:
                gains[len(ngram)] += min(count, allowed[ngram]) * information(ngram)
    average_group = sum(sum(map(bool, group)) for _, group in corpus) / len(corpus)
    ratio = totals[1] * average_group / reference_words
    return sum(gain / max(total, 1) for gain, total in zip(gains, totals, strict=True)) * length_penalty(ratio)


def length_penalty(ratio: float) -> float:
    """1 for long outputs, 0.5 for two thirds of the references' length, falling as a Gaussian of its log (eq. 4)."""
    if not 0 < ratio < 1:
        return float(ratio >= 1)
    return math.exp(math.log(0.5) * (math.log(ratio) / math.log(1.5)) ** 2)


def _tokenized(
    outputs: Sequence[str], references: Sequence[Sequence[str]]
) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    for output, group in zip(outputs, references, strict=True):
        yield tokenize(output), [tokenize(reference) for reference in group]


def ngrams(words: tuple[str, ...], order: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram of 1 to ``order`` words occurs."""
    return Counter(words[i : i + n] for n in range(1, order + 1) for i in range(len(words) - n + 1))


def most(group: list[tuple[str, ...]], order: int) -> Counter[tuple[str, ...]]:
    """The most times that any one reference has each n-gram: what an output is credited for."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in group:
        most |= ngrams(reference, order)
    return most


def _closest_length(output: tuple[str, ...], group: list[tuple[str, ...]]) -> int:
    lengths = [len(reference) for place, reference in enumerate(group) if reference or place == 0]
    return min(lengths, key=lambda length: (abs(length - len(output)), length))
