"""The known sets on the Hub: where each is, and its rows in LLM-Adapters' form.

The Hub has the sets as their authors published them. `written` turns a row into what the files of LLM-Adapters
(github.com/AGI-Edgerunners/LLM-Adapters, dataset/) say of it, which scores on test splits where those are public, and
on validation splits where they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
PARQUET = "refs/convert/parquet"
"""Revision of sets whose main branch holds a loading script, which `datasets` no longer runs."""


@dataclass(frozen=True)
class KnownSet:
    """A set on the Hub.

    Attributes:
        where: its id, or id:configuration.
        splits: "train" and "test" -> the splits that make it up there, one behind the other.
        written: a row in one of the forms of `rows/forms.py`; None: it is in one already.
        revision: where not the main branch.
    """

    where: str
    splits: Mapping[str, tuple[str, ...]]
    written: Callable[[Row], Row] | None = None
    revision: str | None = None


def _choice(asked: str, word: str, texts: Sequence[str], right: int, blank: str = " ", behind: str = "\n\n") -> Row:
    """A question with numbered options such as ``Answer1: a Answer2: b``, and the number of the right one, from 0."""
    names = [f"{word}{number}" for number in range(1, len(texts) + 1)]
    listed = blank.join(f"{name.capitalize()}: {text}" for name, text in zip(names, texts, strict=True))
    answer = names[right]
    instruction = f"Please choose the correct {asked}\n\n{listed}{behind}Answer format: {'/'.join(names)}"
    return {"instruction": instruction, "output": f"the correct answer is {answer}", "answer": answer}


def _boolq(row: Row) -> Row:
    answer = "true" if row["answer"] else "false"
    asked = f"Please answer the following question with true or false, question: {row['question']}?"
    return {
        "instruction": f"{asked}\n\nAnswer format: true/false",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


def _piqa(row: Row) -> Row:
    texts = row["sol1"], row["sol2"]
    return _choice(f"solution to the question: {row['goal']}", "solution", texts, int(row["label"]), "\n\n")


def _siqa(row: Row) -> Row:
    texts = [row[f"answer{letter}"] for letter in "ABC"]
    asked = f"answer to the question: {row['context']} {row['question']}"
    return _choice(asked, "answer", texts, int(row["label"]) - 1)


def _hellaswag(row: Row) -> Row:
    asked = f"ending to complete the given sentence: {row['activity_label']}: {row['ctx']}"
    return _choice(asked, "ending", row["endings"], int(row["label"]))


def _winogrande(row: Row) -> Row:
    asked = f"answer to fill in the blank to complete the given sentence: {row['sentence']}"
    return _choice(asked, "option", (row["option1"], row["option2"]), int(row["answer"]) - 1, behind=" ")


def _science(question: str) -> Callable[[Row], Row]:
    """ARC and OpenBookQA, whose key of the question differs."""

    def written(row: Row) -> Row:
        choices = row["choices"]
        right = choices["label"].index(row["answerKey"])
        return _choice(f"answer to the question: {row[question]}", "answer", choices["text"], right)

    return written


def _number(instruction: str, answer: Any) -> Row:
    return {"instruction": instruction, "output": f"The answer is {answer}.", "answer": str(answer)}


def _multiarith(row: Row) -> Row:
    return _number(row["question"], row["final_ans"])


def _svamp(row: Row) -> Row:
    return _number(f"{row['Body'].strip()} {row['Question'].strip()}", row["Answer"])


def _aqua(row: Row) -> Row:
    options = " ".join(f"({letter}) {text}" for letter, _, text in (o.partition(")") for o in row["options"]))
    answer = row["correct"]
    output = f"{row['rationale']}\nThe answer is ({answer})."
    return {"instruction": f"{row['question']} Answer Choices: {options}", "output": output, "answer": answer}


_OWN = {"train": ("train",), "test": ("test",)}
_HIDDEN = {"train": ("train",), "test": ("validation",)}  # the labels of the test split are not public
_WHOLE = {"test": ("train", "test")}  # LLM-Adapters scores on all rows there are

KNOWN_SETS: dict[str, KnownSet] = {
    "commonsense_170k": KnownSet("zwhe99/commonsense_170k", {"train": ("train",)}),
    "boolq": KnownSet("google/boolq", _HIDDEN, _boolq),
    "piqa": KnownSet("ybisk/piqa", _HIDDEN, _piqa, PARQUET),
    "siqa": KnownSet("allenai/social_i_qa", _HIDDEN, _siqa, PARQUET),
    "hellaswag": KnownSet("Rowan/hellaswag", _HIDDEN, _hellaswag),
    "winogrande": KnownSet("allenai/winogrande:winogrande_xl", _HIDDEN, _winogrande),
    "arc_e": KnownSet("allenai/ai2_arc:ARC-Easy", _OWN, _science("question")),
    "arc_c": KnownSet("allenai/ai2_arc:ARC-Challenge", _OWN, _science("question")),
    "obqa": KnownSet("allenai/openbookqa:main", _OWN, _science("question_stem")),
    "gsm8k": KnownSet("openai/gsm8k:main", _OWN),
    "multiarith": KnownSet("ChilleD/MultiArith", _WHOLE, _multiarith),
    "svamp": KnownSet("ChilleD/SVAMP", _WHOLE, _svamp),
    "aqua": KnownSet("deepmind/aqua_rat:raw", _OWN, _aqua),
}
"""By the name of the part. Of AddSub, SingleEq, MAWPS and Math10K no copy on the Hub in this form is known to us."""
