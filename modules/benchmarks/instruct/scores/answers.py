"""Scores of generated answers."""

from __future__ import annotations

import re

from modules.benchmarks.instruct.rows.example import Example
from modules.benchmarks.instruct.scores import score

NEAR = 1e-3
"""Two numbers that differ by no more are the same, as in LLM-Adapters' evaluate.py."""
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


@score("exact", "share of answers that are word for word what was to be said")
def exact(answer: str, example: Example) -> float:
    """White space at both ends does not count."""
    return float(answer.strip() == (example.answer or example.response).strip())


@score("answer", "share of answers whose first option word is the right one", needs="answer")
def first_option(answer: str, example: Example) -> float:
    """The first of the row's options that the answer has as a word is taken for the choice, in any case of letters.

    LLM-Adapters (commonsense_evaluate.py, extract_answer) takes the first place where the letters of an option stand,
    in small letters alone and inside a word too: true or false; solution1 and 2; answer1 to 5; ending1 to 4; option1
    and 2, by set. On answers in the form that is trained, "the correct answer is answer3", both agree.
    """
    words = example.options or (example.answer,)
    known = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    found = re.search(rf"\b(?:{known})\b", answer, re.IGNORECASE)
    return float(found is not None and found[0].lower() == example.answer.lower())


@score("number", "share of answers whose last number, or letter of choice, is right", needs="answer")
def last_number(answer: str, example: Example) -> float:
    """The last number of the answer against the row's (LLM-Adapters, evaluate.py, extract_answer_number); where that is
    a letter from A to E, the last that stands alone.

    LLM-Adapters (extract_answer_letter) takes the first such letter anywhere, even that of a word such as "Because".
    """
    wanted = example.answer.strip()
    if re.fullmatch(r"[A-E]", wanted):
        letters = re.findall(r"\b([A-E])\b", answer)
        return float(bool(letters) and letters[-1] == wanted)
    found, known = _NUMBER.findall(answer), _NUMBER.findall(wanted)
    if not found or not known:
        return 0.0
    return float(abs(_value(found[-1]) - _value(known[-1])) <= NEAR)


def _value(text: str) -> float:
    return float(text.replace(",", "").rstrip("."))


@score("rouge_l", "ROUGE-L of answers, as the COCO caption tools compute it")
def rouge_l(answer: str, example: Example) -> float:
    """F-measure of the longest common subsequence of words (`modules.scores.coco`), a row by itself: its words are
    those of Stanford's program (`modules.scores.ptb`), which is not started for each."""
    from modules.scores import coco, ptb

    if not answer.strip():
        return 0.0
    said, wanted = (ptb.captions([text], program=False) for text in (answer, example.response))
    return float(coco.rouge_l(said, [wanted]))
