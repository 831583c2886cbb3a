"""`--select split`: half of dev chooses the epoch, the other half is scored."""

from __future__ import annotations

import numpy as np

from modules.benchmarks.glue import GLUE
from modules.benchmarks.glue.selection import halves
from modules.data.tokens import Tokens
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.section import selection
from tests.support.results import run as result_of


def tokens(count: int, first: int = 0) -> Tokens:
    """Rows of 1, 2, 3, ... tokens whose ids are their row's number."""
    lengths = np.arange(1, count + 1)
    ids = np.repeat(np.arange(first, first + count), lengths)
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]), np.arange(first, first + count), ids % 2)


def rows(split: Tokens) -> list[tuple[int, list[int], list[int]]]:
    spans = zip(split.offsets, split.offsets[1:], strict=False)
    return [
        (int(label), split.ids[a:b].tolist(), split.types[a:b].tolist())
        for label, (a, b) in zip(split.labels, spans, strict=True)
    ]


def test_the_halves_are_apart_and_together_they_are_dev():
    splits = {"train": tokens(3), "matched": tokens(9), "mismatched": tokens(6, first=20)}
    found = halves(splits, ["matched", "mismatched", "absent"])
    assert found["train"] is splits["train"] and set(found) == {*splits, "test"}
    assert [len(found[name]) for name in ("matched", "mismatched", "test")] == [4, 3, 8]
    whole = rows(splits["matched"]) + rows(splits["mismatched"])
    parts = rows(found["matched"]) + rows(found["mismatched"]) + rows(found["test"])
    assert sorted(parts) == sorted(whole), "no row is lost, none twice, and each keeps its tokens and its label"
    assert rows(halves(splits, ["matched"])["test"]) == rows(halves(splits, ["matched"])["test"]), "the same every time"


def test_the_table_has_the_score_of_the_other_half_and_names_the_rule():
    changes = {"training__select": "split", "test": {"epoch": 1, "accuracy": 0.5, "loss": 1.0}}
    changes |= {"data__sizes": {"train": 90, "validation": 20, "test": 21}}
    (section,) = build([result_of(**changes)], GLUE)
    (cell,) = section.rows[0].cells.values()
    assert cell.values() == [50.0] and cell.values("last") == [50.0]
    text = to_markdown([section], GLUE)
    assert "best epoch on half of dev" in text and "**21 of 277**" in text


def test_a_run_without_the_rule_keeps_its_id():
    """The default is what runs did before there was a choice."""
    assert GLUE.settings.of({"lr": 1e-3, "batch_size": 8, "epochs": 1, "max_length": 32}).select == "dev"
    assert selection(result_of()) == "dev"
