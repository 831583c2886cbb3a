"""Tables: what a cell says and which runs may share a row."""

import csv
import io

import pytest

from modules.benchmarks.glue import GLUE
from modules.benchmarks.glue.tasks import TASKS
from modules.reports.formats.csv_table import to_csv
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.published import load_published
from paper_repro import PUBLISHED
from tests.support.results import run
from tests.support.tables import EIGHT, lines, only, table

# ---- cells ------------------------------------------------------------------------------------------------------


def test_a_cell_is_median_and_standard_deviation_over_seeds():
    # by hand: median of 70, 74, 66 is 70; deviations 0, 4, -4; sqrt(32 / 2) = 4
    row = only([run(score=score, seed=seed) for seed, score in enumerate((0.70, 0.74, 0.66))])
    assert row["RTE"] == "70.0 ±4.0" and row["Seeds"] == "3"
    # median of 60, 61, 70, 90 is 65.5; mean 70.25; squares 105.0625 + 85.5625 + 0.0625 + 390.0625 = 580.75; / 3, root
    row = only([run(score=score, seed=seed) for seed, score in enumerate((0.9, 0.6, 0.61, 0.7))])
    assert row["RTE"] == "65.5 ±13.9"


def test_two_copies_of_a_data_set_are_one():
    """The same content under two names is one section, also where only some tasks say so; other content is not."""
    place = {"data__source": "folder"}
    runs = [
        run(task="rte", data__name="glue", **place),
        run(task="cola", data__name="glue", **place),
        run(task="cola", seed=1, data__name="copy", **place),
        run(task="mrpc", seed=1, data__name="copy", **place),
    ]
    (section,) = build(runs, GLUE)
    assert section.data["name"] == "copy" and {c for row in section.rows for c in row.cells} == {"rte", "cola", "mrpc"}
    assert len(build(runs[:2] + [run(task="cola", seed=1, data__name="copy", data__hash="other", **place)], GLUE)) == 2


def test_a_single_seed_has_no_spread():
    assert only([run(score=0.8125)])["RTE"] == "81.2"


def test_columns_are_in_the_papers_order_and_a_missing_task_is_empty():
    head = lines([run()])[0]
    assert head[3:12] == ["MNLI", "SST-2", "MRPC", "CoLA", "QNLI", "QQP", "RTE", "STS-B", "Avg"]
    row = only([run("mrpc", 0.9), run("stsb", 0.8)])
    assert [row[TASKS[task].title] for task in EIGHT] == ["", "", "90.0", "", "", "", "", "80.0"]
    assert row["Avg"] == ""


def test_the_average_needs_all_eight():
    results = [run(task, 0.5 + 0.05 * index) for index, task in enumerate(EIGHT)]
    assert only(results)["Avg"] == "67.5"  # 50, 55, ... 85
    assert only(results[1:])["Avg"] == ""


def test_unequal_numbers_of_seeds_are_shown_in_the_cells():
    row = only([run(), run(seed=1), run("mrpc")])
    assert row["RTE"].endswith("(n=2)") and row["MRPC"].endswith("(n=1)") and row["Seeds"] == "1-2"


def test_a_diverged_run_is_named_and_never_averaged():
    results = [run("rte", None), run("rte", 0.9, seed=1)]
    assert only(results)["RTE"] == "diverged 1/2"
    full = [run(task, None if task == "rte" else 0.8) for task in EIGHT]
    assert only(full)["Avg"] == ""
    (cell,) = csv.DictReader(io.StringIO(to_csv(build(results, GLUE))))
    assert cell["value"] == "" and cell["diverged"] == "1"


def test_counts_and_costs():
    results = [
        run("mnli", parameters__head=592899, cost={"step_ms": 10.0, "peak_memory_mb": 1000.0}),
        run("rte", cost={"step_ms": 30.0, "peak_memory_mb": 3000.0}),
        run("rte", seed=1, cost={}),
    ]
    row = only(results)
    assert (row["Adapter"], row["Head"]) == ("294,912", "592,130-592,899")
    assert (row["Step ms"], row["Peak MB"]) == ("20.0", "3000")


def test_no_results_is_no_table():
    assert lines([]) == [] and "no runs yet" in to_markdown(build([], GLUE), GLUE)
    assert lines([run(benchmark="e2e")], load_published(PUBLISHED, "glue")) == []


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"variant_config__r": 4},
        {"variant_config__dropout": 0.1},
        {"training__lr": 1e-3},
        {"training__max_length": 512},
        {"data__hash": "other"},
        {"protocol": "paper"},
        {"variant": "dora"},
        {"overrides": {"lr": 1e-3}},
        {"init_from": {"task": "mnli", "id": "m"}},
        {"code": "abc"},
        {"trainer": {"precision": "16-mixed"}},
    ],
    ids=str,
)
def test_other_settings_never_share_a_row(change):
    results = [run(score=0.7, seed=0), run(score=0.9, seed=1, **change), run(score=0.9, seed=0, **change)]
    rows = lines(results)[2:]
    assert sorted(row[9].rstrip("†") for row in rows) == ["70.0", "90.0 ±0.0"]


def test_what_differs_between_rows_is_in_their_names():
    names = list(table([run(), run(training__lr=1e-3), run(overrides={"batch_size": 4}, training__batch_size=4)]))
    target = "lora target=attn-qv r=8 alpha=16"
    assert names == [f"{target} batch_size=4", f"{target} lr=0.0005", f"{target} lr=0.001"]


def test_sizes_sort_as_numbers():
    names = list(table([run(variant_config__r=r) for r in (16, 8, 128)]))
    assert [name.split()[2] for name in names] == ["r=8", "r=16", "r=128"]


def test_settings_that_a_recipe_sets_per_task_stay_in_one_row_and_in_its_note():
    results = [
        run("rte", training__lr=5e-4, training__epochs=80),
        run("mrpc", training__lr=4e-4, training__epochs=30),
        run("cola", training__lr=4e-4, training__epochs=80),
    ]
    assert len(table(results)) == 1
    text = to_markdown(build(results, GLUE), GLUE)
    assert "lr 0.0004 (MRPC CoLA), 0.0005 (RTE)" in text and "epochs 30 (MRPC), 80 (CoLA RTE)" in text
    assert "max_length 64;" in text and "seeds 0;" in text and "device Some CPU" in text


def test_runs_that_started_from_different_mnli_runs_do_not_share_a_cell():
    starts = [run("mnli", id="m0"), run("mnli", id="m1", seed=1), run("mnli", id="m2", seed=1, training__lr=9e-4)]
    same = [run(init_from={"task": "mnli", "id": "m0"}), run(seed=1, init_from={"task": "mnli", "id": "m1"})]
    assert only(starts[:2] + same)["RTE"] == "70.0 ±0.0†"
    other = [same[0], run(seed=1, init_from={"task": "mnli", "id": "m2"})]
    assert sorted(row[9] for row in lines(starts + other)[2:] if row[9]) == ["70.0†", "70.0†"]


def test_two_results_for_one_seed_are_never_silently_one():
    old, new = run(score=0.5), run(score=0.9, environment__time="2026-02-01T00:00:00+00:00")
    for results in ([old, new], [new, old]):
        assert only(results)["RTE"] == "90.0"
        assert f"RTE, seed 0: the newer of two runs ({new.id}, not {old.id})" in to_markdown(build(results, GLUE), GLUE)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone__name": "other"},
        {"backbone__hash": "other"},
        {"backbone__source": "folder"},
        {"data__name": "mine", "data__hash": "other"},
        {"data__source": "embedded"},
    ],
    ids=str,
)
def test_other_backbones_and_data_have_tables_of_their_own(change):
    results = [run(), run(seed=1, **change)]
    text = to_markdown(build(results, GLUE), GLUE)
    assert text.count("\n## ") == 2 and text.count("70.0") == 2
