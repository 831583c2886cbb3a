"""ROUGE-L and CIDEr as in the COCO caption tools, on captions that `modules.scores.ptb` has tokenised.

A caption is a line of tokens with one space between them. Both follow the tools to the letter, quirks included: to
ROUGE-L an empty caption is one empty word (so an empty output against a reference of punctuation alone scores 1), and
CIDEr's length penalty counts bigrams.

Sources: Lin 2004, section 3.2, with the recall weight 1.2 of the COCO tools; Vedantam et al. 2015, equations 1 to 3,
in the form CIDEr-D (clipped counts, Gaussian length penalty, times 10); Chen et al. 2015.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

BETA = 1.2
"""Weight of recall over precision in ROUGE-L."""
ORDER = 4
"""Longest n-gram of CIDEr."""
SIGMA = 6.0
"""Width of CIDEr's length penalty, in bigrams."""


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean over N outputs of the F-score of the longest common subsequence, in [0, 1]."""
    return fmean(_rouge_l(output, group) for output, group in zip(outputs, references, strict=True))


def _rouge_l(output: str, group: Sequence[str]) -> float:
    """Best precision and best recall may come from different references."""
    said, precision, recall = output.split(" "), 0.0, 0.0
    for reference in group:
        words = reference.split(" ")
        common = _common_subsequence(said, words)
        precision, recall = max(precision, common / len(said)), max(recall, common / len(words))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_subsequence(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence: a row of the table at once, as the bits of a number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << place
    row = every = (1 << len(a)) - 1
    for word in b:
        same = row & places.get(word, 0)
        row = (row + same | row - same) & every
    return len(a) - row.bit_count()


def cider(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean CIDEr-D of N outputs, in [0, 10]; document frequencies are those of these N groups (so 0 for one input)."""
    groups = [[_counts(reference) for reference in group] for group in references]
    frequency = Counter(ngram for group in groups for ngram in set().union(*group))
    log_n = math.log(len(groups))

    def vector(counts: Counter[tuple[str, ...]]) -> tuple[list[dict], list[float], int]:
        """(tf-idf by n-gram for each order, its norms, the length in bigrams)."""
        weights: list[dict] = [{} for _ in range(ORDER)]
        for ngram, count in counts.items():
            weights[len(ngram) - 1][ngram] = count * (log_n - math.log(max(1, frequency[ngram])))
        norms = [math.sqrt(sum(value**2 for value in order.values())) for order in weights]
        return weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2)

    def score(output: str, group: list[Counter[tuple[str, ...]]]) -> float:
        said, said_norms, said_length = vector(_counts(output))
        total = 0.0
        for reference in group:
            true, true_norms, length = vector(reference)
            penalty = math.exp(-((said_length - length) ** 2) / (2 * SIGMA**2))
            for n in range(ORDER):
                if norm := said_norms[n] * true_norms[n]:
                    shared = ((said[n][ngram], true[n][ngram]) for ngram in said[n] if ngram in true[n])
                    total += penalty * sum(min(ours, theirs) * theirs for ours, theirs in shared) / norm
        return 10 * total / ORDER / len(group)

    return fmean(score(output, group) for output, group in zip(outputs, groups, strict=True))


def _counts(caption: str) -> Counter[tuple[str, ...]]:
    words = caption.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))
