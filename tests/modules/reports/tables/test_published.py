"""Published figures: they are the papers', and a fault in a file is named."""

import pytest

from modules.benchmarks.glue import GLUE
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.published import load_published
from paper_repro import PUBLISHED
from tests.support.results import run
from tests.support.tables import EIGHT, PAPERS, published
from variants.errors import UserError


def test_published_rows_say_what_they_are():
    assert len(PAPERS) == 14 + 12 + 13 + 5 + 15 + 15 + 6 + 5 + 4 + 4
    for row in PAPERS:
        assert row.mark in ("run", "copied") and row.statistic and row.split and row.arxiv
        assert row.params or row.source in ("EVA, GLUE", "GaLore, Table 4"), (
            "which print none, or memory in their place"
        )
        assert set(row.scores) <= set(EIGHT) and set(row.spread) <= set(row.scores) <= set(row.metrics)
        assert not row.repeats or published(row.repeats, model=row.model)


@pytest.mark.parametrize(
    "row", [r for r in PAPERS if r.average is not None], ids=lambda r: f"{r.source}-{r.model}-{r.method}"
)
def test_published_averages_follow_from_the_scores(row):
    """Scores are rounded to as many digits as the average, so the two may differ by one unit of the last digit."""
    flat = [sum(score) / len(score) if isinstance(score, list) else score for score in row.scores.values()]
    digits = len(f"{row.average}".partition(".")[2])
    assert sum(flat) / len(flat) == pytest.approx(row.average, abs=1.001 * 10**-digits)


def test_published_figures_are_the_papers():
    (lora,) = published("LoRA, Table 2", model="roberta-base", variant="lora")
    assert [lora.scores[task] for task in EIGHT] == [87.5, 95.1, 89.7, 63.4, 93.3, 90.8, 86.6, 91.5]
    assert [lora.spread[task] for task in EIGHT] == [0.3, 0.2, 0.7, 1.2, 0.3, 0.1, 0.7, 0.2]
    assert (lora.average, lora.params, lora.mark, lora.mnli_init) == (87.2, "0.3M", "run", ("mrpc", "rte", "stsb"))
    (full,) = published("LoRA, Table 2", model="roberta-base", variant="full")
    assert [full.scores[task] for task in EIGHT] == [87.6, 94.8, 90.2, 63.6, 92.8, 91.9, 78.7, 91.2]
    assert full.mark == "copied" and not full.spread
    adalora = published("AdaLoRA, Table 1", variant="adalora")[0]
    assert adalora.scores["mnli"] == [90.76, 90.79] and adalora.scores["rte"] == 88.09
    assert "Spearman" in adalora.metrics["stsb"] and "mean" in adalora.statistic
    (vera,) = published("VeRA, Table 2", model="roberta-base", variant="vera")
    assert vera.scores["cola"] == 65.6 and "mnli" not in vera.scores and vera.params == "0.043M"
    (dora,) = published("SVFT, Table 3", variant="dora")
    assert (dora.scores["rte"], dora.model, dora.arxiv) == (87.0, "deberta-v3-base", "2405.19597v1")
    assert "matched" in dora.metrics["mnli"]
    dagger = [row for row in published("LoRA, Table 2", model="roberta-large", variant="lora") if row.setup]
    assert len(dagger) == 1 and dagger[0].scores["rte"] == 85.2 and not dagger[0].mnli_init


@pytest.mark.parametrize(
    ("variant", "backbone", "models"),
    [
        ("lora", "all-MiniLM-L6-v2", {"roberta-base"}),
        ("lora", "microsoft/deberta-v3-base", {"deberta-v3-base"}),
        ("vera", "roberta-large", {"roberta-large"}),
        ("dora", "roberta-base", {"deberta-v3-base"}),
        ("adalora", "microsoft/deberta-v3-base", {"deberta-v3-base"}),
        ("fourierft", "embedded", {"roberta-base"}),
        ("head", "roberta-base", set()),
    ],
)
def test_the_nearest_published_backbone_is_shown(variant, backbone, models):
    (section,) = build([run(variant=variant, backbone__name=backbone)], GLUE, PAPERS)
    assert {row.model for row in section.published} == models
    text = to_markdown([section], GLUE)
    for row in section.published:
        assert f"{row.method} on {row.model}" in text and row.arxiv in text and row.statistic in text
    if variant == "adalora":
        assert "90.76/90.79" in text and "mean of Pearson and Spearman" in text


@pytest.mark.parametrize("fault", ["key", "mark", "metric", "field"])
def test_a_fault_in_a_published_file_is_named(tmp_path, fault):
    text = (PUBLISHED / "vera_table2.yaml").read_text()
    changes = {
        "key": ("average: 85.2}", "averge: 85.2}"),
        "mark": ("mark: run", "mark: ran"),
        "metric": ("  rte: accuracy\n", ""),
        "field": ("params: 125M,", ""),
    }
    spoiled = text.replace(*changes[fault], 1)
    assert spoiled != text
    (tmp_path / "vera.yaml").write_text(spoiled)
    with pytest.raises(UserError, match=r"vera.yaml, row \d"):
        load_published(tmp_path, "glue")
