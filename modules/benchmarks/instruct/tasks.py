"""The tasks of instruction tuning: what is trained on, and what is scored, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from modules.data.task import Task


@dataclass(frozen=True)
class Part:
    """A set of rows that is trained on, scored, or both.

    Attributes:
        name: in columns and result files: small letters, digits and _; `hub.py` knows by it what the Hub has.
        title: in tables.
        folder: where its train and test files are, in a folder of data.
        trains: its training rows are trained on.
        scored: its test rows are scored.
    """

    name: str
    title: str
    folder: str = ""
    trains: bool = True
    scored: bool = True


@dataclass(frozen=True, kw_only=True)
class InstructTask(Task):
    """A task of several parts, trained together.

    Attributes:
        parts: in the order of the table's columns.
        union: a set that has the training rows of all parts, taken in their place where it is to be had.
        scores: names of what is scored on each part (`modules.benchmarks.instruct.scores`); the first is the table's.
    """

    parts: tuple[Part, ...] = ()
    union: Part | None = None
    scores: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("instruction",)
    metrics: tuple[str, ...] = ("neg_perplexity",)


COMMONSENSE = InstructTask(
    name="commonsense",
    title="Commonsense",
    scores=("answer", "choice", "choice_norm"),
    parts=(
        Part("boolq", "BoolQ", "boolq"),
        Part("piqa", "PIQA", "piqa"),
        Part("siqa", "SIQA", "social_i_qa"),
        Part("hellaswag", "HellaSwag", "hellaswag"),
        Part("winogrande", "WinoGrande", "winogrande"),
        Part("arc_e", "ARC-e", "ARC-Easy"),
        Part("arc_c", "ARC-c", "ARC-Challenge"),
        Part("obqa", "OBQA", "openbookqa"),
    ),
    union=Part("commonsense_170k", "Commonsense170K", "commonsense_170k"),
)
"""DoRA's Table 1, in the form of LLM-Adapters (arXiv 2304.01933)."""
ARITHMETIC = InstructTask(
    name="arithmetic",
    title="Arithmetic",
    scores=("number",),
    parts=(
        Part("math", "LLM-Adapters' math_data", "math", scored=False),
        Part("gsm8k", "GSM8K", "gsm8k"),
        Part("multiarith", "MultiArith", "MultiArith", trains=False),
        Part("addsub", "AddSub", "AddSub", trains=False),
        Part("singleeq", "SingleEq", "SingleEq", trains=False),
        Part("svamp", "SVAMP", "SVAMP", trains=False),
        Part("aqua", "AQuA", "AQuA", trains=False),
        Part("mawps", "MAWPS", "mawps", trains=False),
    ),
    union=Part("math_10k", "Math10K", "math_10k"),
)
"""LLM-Adapters' arithmetic reasoning. Its training sets hold test rows of other sets, on which nothing is trained here
(`sources.without_questions_of`): all of math_data.json are such, and so are Math10K's rows of AddSub, MultiArith and
SingleEq, as its authors say (README of AGI-Edgerunners/LLM-Adapters)."""
SKILLS = InstructTask(
    name="skills",
    title="Skills",
    scores=("exact",),
    parts=(
        Part("strings", "strings"),
        Part("arithmetic", "arithmetic"),
        Part("lookup", "look-up"),
        Part("formatting", "formatting"),
    ),
)
"""The generated task that ships with the project."""
TASKS: dict[str, InstructTask] = {task.name: task for task in (COMMONSENSE, ARITHMETIC, SKILLS)}
