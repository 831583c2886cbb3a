"""The table on the console: columns that align, in narrow windows and wide ones."""

from __future__ import annotations

import re

import pytest

from modules.benchmarks.glue import GLUE
from modules.reports.formats.console import to_text
from modules.reports.formats.text_table import text_table
from modules.reports.tables.build import build
from tests.support.results import run
from tests.support.tables import EIGHT, PAPERS


def text_of(runs, wide: int = 160) -> str:
    return to_text(build(runs, GLUE, PAPERS), wide)


@pytest.mark.parametrize("wide", [58, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal_and_columns_align(wide):
    text = text_of([run(task, 0.8, seed) for task in EIGHT for seed in (0, 1)], wide)
    lines = text.splitlines()
    assert max(map(len, lines)) <= wide
    for number, line in enumerate(lines):
        if line.startswith("method "):  # figures end where their headings do
            ends = {found.end() for found in re.finditer(r"\S+", line)}
            row = next(text for text in lines[number + 2 :] if text.startswith("lora"))
            assert {found.end() for found in re.finditer(r"\S+(?: ±\S+)?", row)} >= ends - {len("method")}
    assert sum(line.count("80.0 ±0.0") for line in lines) == 8


def test_a_row_is_one_line_where_the_width_permits():
    text = text_of([run(task, 0.8, seed) for task in EIGHT for seed in (0, 1)])
    (row,) = [line for line in text.splitlines() if line.startswith("lora")]
    assert row.count("80.0 ±0.0") == 8 and row.split()[-3:-1] == ["80.0", "2"]
    assert "published: LoRA (LoRA, Table 2)" in text


def test_one_seed_has_no_spread():
    text = text_of([run("rte", 0.918)])
    assert re.search(r"^lora .* 91\.8  ", text, re.M) and "±" not in text.split("published")[0].split("method")[1]


def test_published_rows_of_other_backbones_are_left_to_the_files():
    own = {"source": "folder", "name": "own-bert", "hash": "0"}
    text = text_of([run("rte", 0.9, backbone=own)])
    assert "published:" not in text and "the published rows are of other backbones (roberta-base)" in text


def test_runs_without_a_score_are_marked():
    text = text_of([run("rte", 0.9, trainer={"limit_train_batches": 2}), run("cola", 0.9, cost__diverged=True)])
    assert "truncated 1/1" in text and "diverged 1/1" in text and "90.0" not in text


def test_long_names_are_broken_before_columns_are():
    lines = [["name", "a", "b"], ["a name of many words that goes on", "1", "22"]]
    assert text_table(lines, 100).splitlines()[2].split()[-2:] == ["1", "22"]
    narrow = text_table(lines, 30)
    assert max(map(len, narrow.splitlines())) <= 30 and narrow.splitlines()[2].endswith(" 1  22")
