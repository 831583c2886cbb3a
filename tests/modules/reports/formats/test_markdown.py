"""The Markdown table: its headings, its notes, published rows beside ours."""

import pytest

from modules.benchmarks.glue import GLUE
from modules.reports.formats.console import to_text
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from tests.support.results import run
from tests.support.tables import PAPERS, table


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("sentence-transformers/all-MiniLM-L6-v2", "folder", "all-MiniLM-L6-v2 (not RoBERTa)"),
        ("roberta-large", "hub", "roberta-large (not roberta-base)"),
        ("embedded", "embedded", "embedded (a small model made by this project, not RoBERTa-base)"),
        ("FacebookAI/roberta-base", "hub", "FacebookAI/roberta-base on"),
    ],
)
def test_the_heading_names_the_backbone(name, source, words):
    sections = build([run(backbone__name=name, backbone__source=source)], GLUE)
    assert f"{words}" in to_markdown(sections, GLUE).split("\n## ")[1].splitlines()[0] and words in to_text(sections)


def test_subsets_and_missing_splits_are_named():
    results = [
        run("rte", data__sizes={"train": 2490, "validation": 277}),
        run("qnli", data__sizes={"train": 19476, "validation": 5463}),
        run("mnli", data__sizes={"train": 9999, "validation_matched": 9815}),
    ]
    text = to_markdown(build(results, GLUE), GLUE)
    assert "QNLI **19,476 of 104,743** / 5,463" in text and "RTE 2,490 / 277" in text
    assert "MNLI accuracy (matched rows)" in text
    assert "RTE 90 / 10" in to_markdown(build([run(data__source="embedded")], GLUE), GLUE)  # there is no official size


def test_published_rows_stand_beside_ours_and_are_marked():
    rows = table([run("rte")], PAPERS)
    names = list(rows)
    assert names[0] == "lora target=attn-qv r=8 alpha=16" and all("on roberta-base" in name for name in names[1:])
    assert names.count("LoRA on roberta-base") == 1, "once, though VeRA, FourierFT and VB-LoRA repeat it"
    beside = rows["LoRA on roberta-base"]
    assert beside[""] == "*published*" and beside["Protocol"] == "LoRA, Table 2"
    assert beside["RTE"] == "86.6 ±0.7†" and beside["MNLI"] == "87.5 ±0.3" and beside["Avg"] == "87.2"


def test_a_copied_row_says_so():
    rows = table([run(variant="full", variant_config={})], PAPERS)
    assert rows["FT on roberta-base"]["Protocol"] == "LoRA, Table 2, copied there"


def test_names_cannot_break_the_table():
    row = next(iter(table([run(variant_config__target="q|v, *.dense")]).values()))
    assert row["RTE"] == "70.0" and r"q\|v, *.dense" in row["Method"]
