"""The tasks of instruction tuning: what is trained on, and what is scored, part by part."""

from __future__ import annotations

from dataclasses import dataclass

from modules.data.task import Task


@dataclass(frozen=True)
class Part:
    """A set of rows that is trained on, scored, or both.

    Attributes:
        name: in columns and result files: small letters, digits and _.
        title: in tables.
        folder: where its train and test files are, in a folder of data.
        hub: id of a data set with rows in one of the forms, or id:configuration; empty where none is known.
        trains: its training rows are trained on.
        scored: its test rows are scored.
    """

    name: str
    title: str
    folder: str = ""
    hub: str = ""
    trains: bool = True
    scored: bool = True


@dataclass(frozen=True, kw_only=True)
class InstructTask(Task):
    """A task of several parts, trained together.

    Attributes:
        parts: in the order of the table's columns.
        scores: names of what is scored on each part (`modules.benchmarks.instruct.scores`); the first is the table's.
    """

    parts: tuple[Part, ...] = ()
    scores: tuple[str, ...] = ()
    fields: tuple[str, ...] = ("instruction",)
    metrics: tuple[str, ...] = ("neg_perplexity",)


COMMONSENSE = InstructTask(
    name="commonsense",
    title="Commonsense",
    scores=("answer", "choice"),
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
)
"""DoRA's Table 1, in the form of LLM-Adapters (arXiv 2304.01933)."""
ARITHMETIC = InstructTask(
    name="arithmetic",
    title="Arithmetic",
    scores=("number",),
    parts=(
        Part("math", "MATH-10K", "math", scored=False),
        Part("gsm8k", "GSM8K", "gsm8k", "openai/gsm8k:main", trains=False),
        Part("multiarith", "MultiArith", "MultiArith", trains=False),
        Part("addsub", "AddSub", "AddSub", trains=False),
        Part("singleeq", "SingleEq", "SingleEq", trains=False),
        Part("svamp", "SVAMP", "SVAMP", trains=False),
        Part("aqua", "AQuA", "AQuA", trains=False),
    ),
)
"""LLM-Adapters' arithmetic reasoning."""
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
