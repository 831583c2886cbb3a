"""The five scores of the E2E NLG challenge: BLEU, NIST, METEOR, ROUGE-L and CIDEr, as its official scorer gives them.

    values, missing = score(outputs, references)

`mteval` has BLEU and NIST, `nist_python` the NIST of the scorer's option -p, `coco` ROUGE-L and CIDEr on captions
tokenised by `ptb`, `java` METEOR and Stanford's tokeniser; `files` reads the scorer's formats. None needs torch.

The definition is `measure_scores.py` of https://github.com/tuetschek/e2e-metrics with its default options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import metadata

from modules.scores import coco, java, mteval, ptb
from modules.scores.nist_python import nist_python
from variants.errors import UserError

Corpus = tuple[list[str], list[list[str]]]
"""(N outputs, N groups of references)."""


def score(
    outputs: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float | None], dict[str, str]]:
    """All five scores, NIST in both of its forms, of N outputs against N groups of references.

    Returns:
        {name: value}: BLEU, METEOR and ROUGE-L in [0, 1], CIDEr in [0, 10], NIST from 0 up; None for a score that
        cannot be computed on this machine. {name: the reason in one line} for such scores.

    Raises:
        UserError: outputs and references do not belong together (`check`).
    """
    check(outputs, references)
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for name, formula in FORMULAS.items():
        try:
            values[name] = formula(outputs, references)
        except java.Unavailable as lack:
            values[name], missing[name] = None, str(lack)
    return values, missing


def versions() -> dict[str, str | None]:
    """Versions of the scorers.

    `tokenizer` of captions ("stanford" or "own"), `java`, and `pycocoevalcap`, the package of the Java programs; None
    where one is not installed.
    """
    try:
        package = metadata.version("pycocoevalcap")
    except metadata.PackageNotFoundError:
        package = None
    return {"tokenizer": ptb.in_use(), "java": java.version(), "pycocoevalcap": package}


def check(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise UserError unless there is a group of references for each output, and a word in every group."""
    if len(outputs) != len(references):
        raise UserError(
            f"{len(outputs)} outputs but {len(references)} groups of references: there must be one output for each "
            "input (plain text: one output per line, and a blank line between the references of two inputs)"
        )
    if not outputs:
        raise UserError("there is nothing to score: no outputs and no references")
    for number, group in enumerate(references, 1):
        if not any(map(mteval.tokenize, group)):
            raise UserError(f"reference group {number} is empty: every input needs at least one reference")


@lru_cache(maxsize=2)
def _captions(outputs: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> Corpus:
    """Both sides in Penn Treebank tokens: all references as one text and all outputs as another, as officially."""
    flat = iter(ptb.captions([reference for group in references for reference in group]))
    return ptb.captions(outputs), [[next(flat) for _ in group] for group in references]


def _on_captions(formula: Callable[[list[str], list[list[str]]], float]):
    def tokenized(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        return formula(*_captions(tuple(outputs), tuple(map(tuple, references))))

    return tokenized


FORMULAS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], float]] = {
    "BLEU": mteval.bleu,
    "NIST": mteval.nist,
    "NIST_python": nist_python,
    "METEOR": _on_captions(java.meteor),
    "ROUGE_L": _on_captions(coco.rouge_l),
    "CIDEr": _on_captions(coco.cider),
}
"""Scores by name in the official order; each takes N outputs and N groups of references, all plain text."""
