"""The table: what a cell says, what may share a row, and that published figures are the papers'."""

import csv
import io
import itertools
import json
import re

import pytest

from modules.benchmarks.glue import GLUE
from modules.benchmarks.glue.tasks import TASKS
from modules.reports.formats.console import to_text
from modules.reports.formats.csv_table import to_csv
from modules.reports.formats.markdown import to_markdown
from modules.reports.tables.build import build
from modules.reports.tables.published import load_published
from modules.reports.write import write_tables
from modules.runs.results import ResultStore, RunResult
from paper_repro import PUBLISHED

EIGHT = ("mnli", "sst2", "mrpc", "cola", "qnli", "qqp", "rte", "stsb")
COLUMNS = dict(mnli="accuracy", cola="matthews", stsb="pearson")
ids = itertools.count()


def run(task="rte", score=0.7, seed=0, last=0.6, **changes) -> RunResult:
    """A result as a run would leave it; `changes` may reach into its parts as part__key=value."""
    metric = COLUMNS.get(task, "accuracy")
    dev = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
    content = dict(
        id=f"{next(ids):012x}",
        benchmark="glue",
        task=task,
        variant="lora",
        variant_config={"target": "attn-qv", "layers": "", "r": 8, "alpha": 16.0, "dropout": 0.0, "rslora": False},
        protocol="embedded",
        seed=seed,
        backbone={"source": "hub", "name": "roberta-base", "hash": "feedbeef" * 8},
        data={
            "source": "hub",
            "name": "nyu-mll/glue",
            "hash": f"h-{task}",
            "sizes": {"train": 90} | dict.fromkeys(dev, 10),
        },
        training={"lr": 5e-4, "batch_size": 32, "epochs": 8, "max_length": 64},
        metric=metric,
        epochs=[],
        best={"epoch": 3, metric: score},
        last={"epoch": 8, metric: last},
        parameters={"adapter": 294912, "head": 592130, "total": 124647170},
        cost={"step_ms": 12.0, "peak_memory_mb": 2000.0},
        environment={"device": "Some CPU", "devices": 1, "time": "2026-01-01T00:00:00+00:00"},
    )
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            content[part] = {**content[part], key: value}
        else:
            content[part] = value
    return RunResult(**content)


def lines(results, published=()) -> list[list[str]]:
    """Cells of every table row of the Markdown."""
    text = to_markdown(build(results, GLUE, published), GLUE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def table(results, published=()) -> dict[str, dict[str, str]]:
    """Rows of a single Markdown table by method, each by column."""
    head, _, *rows = lines(results, published)
    assert head.count("Method") == 1 and all(len(row) == len(head) for row in rows)
    found = {row[1].replace("`", ""): dict(zip(head, row, strict=True)) for row in rows}
    assert len(found) == len(rows)
    return found


def only(results):
    ((_, row),) = table(results).items()
    return row


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
    assert only([run(score=0.8125)])["RTE"] == "81.2 ±-"


def test_columns_are_in_the_papers_order_and_a_missing_task_is_empty():
    head = lines([run()])[0]
    assert head[3:12] == ["MNLI", "SST-2", "MRPC", "CoLA", "QNLI", "QQP", "RTE", "STS-B", "Avg"]
    row = only([run("mrpc", 0.9), run("stsb", 0.8)])
    assert [row[TASKS[task].title] for task in EIGHT] == ["", "", "90.0 ±-", "", "", "", "", "80.0 ±-"]
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
    assert sorted(row[9].rstrip("†") for row in rows) == ["70.0 ±-", "90.0 ±0.0"]


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
    assert sorted(row[9] for row in lines(starts + other)[2:] if row[9]) == ["70.0 ±-†", "70.0 ±-†"]


def test_two_results_for_one_seed_are_never_silently_one():
    old, new = run(score=0.5), run(score=0.9, environment__time="2026-02-01T00:00:00+00:00")
    for results in ([old, new], [new, old]):
        assert only(results)["RTE"] == "90.0 ±-"
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
    assert text.count("\n## ") == 2 and text.count("70.0 ±-") == 2


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


# ---- published --------------------------------------------------------------------------------------------------

PAPERS = load_published(PUBLISHED, "glue")


def published(source, **wanted):
    rows = [r for r in PAPERS if r.source == source and all(getattr(r, key) == value for key, value in wanted.items())]
    assert rows, wanted
    return rows


def test_published_rows_say_what_they_are():
    assert len(PAPERS) == 14 + 12 + 13 + 7
    for row in PAPERS:
        assert row.mark in ("run", "copied") and row.statistic and row.split and row.arxiv and row.params
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


def test_published_rows_stand_beside_ours_and_are_marked():
    rows = table([run("rte")], PAPERS)
    names = list(rows)
    assert names == ["lora target=attn-qv r=8 alpha=16", "LoRA on roberta-base"]  # once, though VeRA repeats it
    beside = rows["LoRA on roberta-base"]
    assert beside[""] == "*published*" and beside["Protocol"] == "LoRA, Table 2"
    assert beside["RTE"] == "86.6 ±0.7†" and beside["MNLI"] == "87.5 ±0.3" and beside["Avg"] == "87.2"


def test_a_copied_row_says_so():
    rows = table([run(variant="full", variant_config={})], PAPERS)
    assert rows["FT on roberta-base"]["Protocol"] == "LoRA, Table 2, copied there"


@pytest.mark.parametrize(
    ("variant", "backbone", "models"),
    [
        ("lora", "all-MiniLM-L6-v2", {"roberta-base"}),
        ("lora", "microsoft/deberta-v3-base", {"deberta-v3-base"}),
        ("vera", "roberta-large", {"roberta-large"}),
        ("dora", "roberta-base", {"deberta-v3-base"}),
        ("adalora", "embedded", {"deberta-v3-base"}),
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
    with pytest.raises(ValueError, match=r"vera.yaml, row \d"):
        load_published(tmp_path, "glue")


# ---- files ------------------------------------------------------------------------------------------------------


def test_tables_are_the_same_bytes_whatever_the_order(tmp_path):
    results = [
        run(task, 0.6 + 0.01 * seed, seed, variant_config__r=r) for task in EIGHT for seed in (0, 1) for r in (4, 8)
    ]
    results += [run(backbone__name="other", protocol="paper"), run(training__lr=1e-3)]
    store = ResultStore(tmp_path)
    for result in results:
        store.write(result)
    first = [path.read_bytes() for path in write_tables(tmp_path, results, GLUE, PAPERS)]
    again = [path.read_bytes() for path in write_tables(tmp_path, results[::-1], GLUE, PAPERS)]
    read = [path.read_bytes() for path in write_tables(tmp_path, store.all(), GLUE, PAPERS)]
    assert first == again == read
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "glue-differences.csv",
        "glue.csv",
        "glue.md",
        "glue.tex",
        "runs",
    ]


def test_every_figure_of_the_csv_is_backed_by_run_files():
    results = [
        run(task, 0.5 + 0.1 * seed, seed, last=0.4 + 0.1 * seed) for task in ("rte", "cola") for seed in (0, 1, 2)
    ]
    by_id = {result.id: result for result in results}
    cells = list(csv.DictReader(io.StringIO(to_csv(build(results, GLUE, PAPERS)))))
    ours = [cell for cell in cells if cell["kind"] == "ours"]
    assert [cell["task"] for cell in ours] == ["cola", "rte"]  # the papers' order
    for cell in ours:
        runs = [by_id[id] for id in cell["run_ids"].split()]
        assert {r.task for r in runs} == {cell["task"]} and len(runs) == 3
        assert (cell["value"], cell["spread"]) == ("60.00", "10.00")
        assert (cell["last_value"], cell["last_spread"]) == ("50.00", "10.00")
        assert cell["best_epochs"] == "3 3 3" and cell["seeds"] == "0 1 2" and cell["metric"] == runs[0].metric
        assert (
            json.loads(cell["training"]) == runs[0].training and json.loads(cell["options"]) == runs[0].variant_config
        )
    papers = [cell for cell in cells if cell["kind"] == "published"]
    assert {cell["source"] for cell in papers} == {"LoRA, Table 2 (arXiv:2106.09685v2)"} and len(papers) == 8
    assert all(cell["mark"] == "run" and cell["run_ids"] == "" for cell in papers)


def test_names_cannot_break_the_table():
    row = next(iter(table([run(variant_config__target="q|v, *.dense")]).values()))
    assert row["RTE"] == "70.0 ±-" and r"q\|v, *.dense" in row["Method"]


def test_the_console_table_fits_80_columns():
    text = to_text(build([run(task, 0.8, seed) for task in EIGHT for seed in (0, 1)], GLUE, PAPERS))
    figures = [line for line in text.splitlines() if re.match(r"\s*\d\d\.\d", line)]
    assert len(figures) == 2 and max(map(len, figures)) <= 80
    assert figures[0].split() == ["80.0±0.0"] * 8 + ["80.0"]
    assert "published: LoRA on roberta-base (LoRA, Table 2), 0.3M" in text
