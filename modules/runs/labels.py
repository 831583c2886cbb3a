"""What a run is called, in tables and on dashboards: the sizes of its variant and what was set by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from modules.runs.results import canonical


def label_words(
    options: Sequence[Mapping[str, Any]], overrides: Mapping[str, Any], wanted: Collection[int | None] = ()
) -> dict[str, str]:
    """The words of a label by name: sizes (whole numbers, alpha, target), settings made by hand, a budget.

    Args:
        options: all hyperparameters of the variant, of each of the runs that share the label.
        overrides: settings by hand that differ from the recipe.
        wanted: the budgets that were asked for; a label names one alone.
    """
    words: dict[str, str] = {}
    for name in dict.fromkeys(name for each in options for name in each):
        values = sorted({as_text(each.get(name)) for each in options}, key=natural)
        whole = all(re.fullmatch(r"-?\d+", value) for value in values)
        if (whole or name in ("alpha", "target")) and len(values) <= 2 and values not in (["0"], ["null"]):
            words[name] = "/".join(plain(value) for value in values)
    words |= {name: plain(as_text(value)) for name, value in overrides.items()}
    if len(found := set(wanted)) == 1 and None not in found:
        words["budget"] = f"{found.pop():,}"
    return words


def in_words(words: Mapping[str, str]) -> str:
    """Such as `r=8 alpha=16`."""
    return " ".join(f"{name}={value}" for name, value in words.items())


def as_text(value: Any) -> str:
    """Canonical JSON, so that equal values are equal texts."""
    return _scalar(value) if isinstance(value, (str, int, float)) else _text(value)


def _text(value: Any) -> str:
    return json.dumps(canonical(value), sort_keys=True, ensure_ascii=False)


_scalar = lru_cache(4096, typed=True)(_text)
"""Runs of a comparison share their numbers and names."""


def short_name(backbone: str) -> str:
    """A model's name without its owner: FacebookAI/roberta-base is roberta-base."""
    return backbone.rpartition("/")[2]


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key that compares numbers by value: r=8 comes before r=16, and lr=0.0005 before lr=0.001."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", text)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts) if part]


def plain(text: str) -> str:
    """Canonical JSON for a reader: words without quotes, fractions in their shortest form."""
    value = json.loads(text)
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else text
