"""The generated restaurants: nothing is left out, words vary, and the small GPT-2 knows them all."""

import re

import numpy as np

from modules.benchmarks.e2e import TASK
from modules.benchmarks.e2e.sources import EmbeddedSource
from modules.benchmarks.e2e.text import read_authors_mr

CUES = {  # words one of which a sentence must have for a slot's value
    ("price", "cheap"): "cheap|low - priced|low prices", ("price", "moderate"): "moderate|average prices",
    ("price", "high"): "high prices|expensive|high - priced|range is high",
    ("customer rating", "low"): "low rated|low customer rating|poor reviews",
    ("customer rating", "average"): "average rated|average customer|average reviews",
    ("customer rating", "high"): "highly rated|high customer|good reviews",
    ("customer rating", "1 out of 5"): "1 star|1 out of 5", ("customer rating", "3 out of 5"): "3 star|3 out of 5",
    ("customer rating", "5 out of 5"): "5 star|5 out of 5",
    ("family friendly", "yes"): "family friendly|child friendly|children are welcome|whole family",
    ("family friendly", "no"): "not family friendly|adults only|not welcome", ("food", "Fast food"): "fast food",
    ("area", "city centre"): "city centre|centre of the city",
}  # fmt: skip


def test_the_generated_sentences_leave_nothing_out_and_vary():
    made = EmbeddedSource().load(TASK)
    for split in made.values():
        for mr, text in split.texts:
            for slot, value in read_authors_mr(mr):
                assert re.search(CUES.get((slot, value), re.escape(value)), text, re.I), (mr, text)
    groups: dict[str, set[str]] = {}
    for mr, text in made["test"].texts:
        groups.setdefault(mr, set()).add(text)
    assert np.mean([len(texts) for texts in groups.values()]) > 6  # of 8
    everywhere = [set(mr for mr, _ in split.texts) for split in made.values()]
    assert not (everywhere[0] & everywhere[1]) and not (everywhere[0] & everywhere[2])


def test_the_small_gpt2_knows_every_word_and_is_small():
    from transformers import AutoTokenizer

    from modules.embedded import GPT2

    tokenizer = AutoTokenizer.from_pretrained(GPT2)
    texts = {text for split in EmbeddedSource().load(TASK).values() for row in split.texts for text in row}
    assert tokenizer.unk_token_id not in {i for ids in tokenizer(sorted(texts))["input_ids"] for i in ids}
    assert tokenizer.decode(tokenizer.encode("The £ 20 - 25 .")) == "The £ 20 - 25 ."
    assert sum(file.stat().st_size for file in GPT2.iterdir()) < 5e6


def test_the_corpus_and_the_restaurants_are_the_same_on_every_python():
    import hashlib

    from modules.embedded.prose import documents

    prose = hashlib.sha256("\n".join(documents(0, 0)).encode()).hexdigest()
    assert (prose[:12], EmbeddedSource().hash(TASK)[:12]) == FINGERPRINTS


FINGERPRINTS = ("cd3f60563095", "d9b9b0b2ff35")
