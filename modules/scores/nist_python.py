"""NIST as the E2E challenge's scorer computes it with `-p`, which the LoRA authors' command gives it.

`measure_scores.py -p` takes Python code in place of mteval-v13a. Its BLEU is the same wherever every order has a match;
its NIST differs from `mteval.nist` in this:

* The length penalty weighs the outputs' words against the *mean length of each input's references*, summed over the
  inputs. (mteval: all reference words by the average number of references, where inputs with many references count
  more.) On the challenge's test set, where inputs have 1 to 50 references, this is nearly all of the difference.
* An output of k words has k - n + 1 n-grams, also where that is less than nothing.
* The one-word history "0" is a history like any other.
* All of Unicode is lower-cased, and a text of which nothing is left is one empty word.

Source: `pymteval.py` of https://github.com/tuetschek/e2e-metrics; the command is that of microsoft/LoRA, examples/NLG.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from modules.scores import mteval
from modules.scores.mteval import NIST_ORDER


def tokenize(text: str) -> tuple[str, ...]:
    """The words of a text by mteval-v13a's rules, in lower case; one empty word where nothing is left."""
    return tuple(word for part in mteval.tokenize(text) for word in part.lower().split()) or ("",)


def nist_python(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus NIST (bits, from 0 up) of N outputs against N groups of references."""
    corpus = [(tokenize(o), [tokenize(r) for r in group]) for o, group in zip(outputs, references, strict=True)]
    counts: Counter[tuple[str, ...]] = Counter()
    for _, group in corpus:
        for reference in group:
            counts.update(mteval.ngrams(reference, NIST_ORDER))
            counts[()] += len(reference)  # the history of a single word: all words

    gains, totals = [0.0] * (NIST_ORDER + 1), [0] * (NIST_ORDER + 1)
    for output, group in corpus:
        allowed = mteval.most(group, NIST_ORDER)
        for ngram, count in mteval.ngrams(output, NIST_ORDER).items():
            if ngram in allowed:
                gains[len(ngram)] += min(count, allowed[ngram]) * math.log2(counts[ngram[:-1]] / counts[ngram])
        for order in range(1, NIST_ORDER + 1):
            totals[order] += len(output) - order + 1
    reference_words = sum(sum(map(len, group)) / len(group) for _, group in corpus)
    precision = sum(gain / total for gain, total in zip(gains, totals, strict=True) if total > 0)
    return precision * mteval.length_penalty(totals[1] / reference_words)
