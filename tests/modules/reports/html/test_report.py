"""The report's page: its numbers are the tables', it is one file, and it works in a real browser."""

import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from modules.benchmarks.glue import GLUE
from modules.reports.formats.csv_table import to_csv
from modules.reports.html import write
from modules.reports.html.charts import against_costs, curves, differences
from modules.reports.html.marks import SHAPES, marked_rows
from modules.reports.html.page import WITHOUT_LIBRARY
from modules.reports.html.rank_maps import layer_and_role
from modules.reports.html.tuning import rate_curves, tuning_cost
from modules.reports.plots.layout import summed_columns
from modules.reports.plots.palette import METHODS, SPARE
from modules.reports.tables.build import build
from modules.reports.tables.rate_curves import Rule, Trials
from modules.reports.tables.significance import compare
from modules.runs.results import ResultStore, RunResult
from paper_repro import report
from tests.support.chromium import browser
from tests.support.results import run
from variants.errors import UserError

SHARED = Path(__file__).resolve().parents[4] / "results" / "reference"


class Reader(HTMLParser):
    """The rows of a page's tables, as texts of cells, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.loaded += [found[name] for name in ("src", "href") if name in found and tag in ("script", "link", "img")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def results() -> list[RunResult]:
    """Two methods and AdaLoRA, three seeds, two tasks; a name that is no HTML; one run that diverged."""
    found = []
    for k, variant in enumerate(("lora", "dora", "adalora", "<b>mine</b>")):
        for task in ("rte", "cola"):
            for seed in range(3):
                score = 0.6 + 0.05 * k + (0.01 + 0.004 * k) * seed
                metric = "matthews" if task == "cola" else "accuracy"
                epochs = [{"epoch": e, "train_loss": 1.0, "loss": 0.5, metric: score - 0.1 + 0.05 * e} for e in (1, 2)]
                ranks = {f"rank/encoder.layer.{n}.attention.self.query": n for n in (0, 1)}
                extra = {"variant_metrics": ranks} if variant == "adalora" else {}
                size = {"parameters__adapter": 1000 * (k + 1)}
                found.append(run(task, score, seed, variant=variant, epochs=epochs, **size, **extra))
    found.append(run("rte", 0.5, 0, variant="vera", cost={"diverged": True, "step_ms": 3.0}))
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder."""
    for result in results():
        ResultStore(tmp_path).write(result)
    return tmp_path


@pytest.fixture
def page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its page, with a short script in place of the library."""
    monkeypatch.setattr(write, "library", lambda: "window.vegaEmbed = null")
    return write.write_report(folder).read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_table(page: str, folder: Path):
    lines = list(csv.DictReader(io.StringIO(to_csv(build(ResultStore(folder).all(), GLUE)))))
    rows = {
        re.sub(r"\W+", " ", row[0]).split()[0]: row for row in Reader(page).rows if row and "published" not in row[0]
    }
    for line in lines:
        if line["value"]:
            name = re.sub(r"\W+", " ", line["variant"]).split()[0]
            assert f"{float(line['value']):.1f}\xa0±{float(line['spread']):.1f}" in rows[name]
    assert "diverged 1/1" in rows["vera"]
    assert any("published" in row[0] for row in Reader(page).rows if row)


def test_one_file_without_anything_to_load_and_names_are_text(page: str):
    reader = Reader(page)
    assert reader.loaded == ["data:,"]  # no icon is asked for
    assert "<b>mine" not in page and "&lt;b&gt;mine" in page
    assert "</script" not in re.search(r'id="charts">(.*?)</script>', page, re.S)[1]
    assert len(set(reader.ids)) == len(reader.ids)


def test_the_same_results_give_the_same_page(page: str, folder: Path):
    assert write.write_report(folder).read_text(encoding="utf-8") == page


def test_charts_hold_what_tables_say():
    (section,) = build(results(), GLUE)
    marked = marked_rows(section)
    (cost, *_) = list(against_costs(section, marked))
    scores = {value["row"]: value["score"] for value in cost.spec["data"]["values"]}
    means = {one.name: one.row.mean(summed_columns(section))[0] for one in marked}
    assert "vera" in means and "vera" not in scores  # it diverged
    assert scores == {name: pytest.approx(mean, abs=1e-3) for name, mean in means.items() if name != "vera"}
    comparison = compare(section)[0]
    (chart,) = list(differences([comparison], marked))
    assert len(chart.spec["data"]["values"]) == 2 * len(comparison.differences)  # each row against each
    for d in comparison.differences:
        (value,) = [
            v for v in chart.spec["data"]["values"]
            if (v["row"], v["against"]) == (marked[d.second].name, marked[d.first].name)
        ]  # fmt: skip
        assert value["difference"] == pytest.approx(-d.mean, abs=1e-3)
        assert value["low"] == pytest.approx(-d.high, abs=1e-3)
    by_task = {chart.name: chart for chart in curves(section, marked)}
    assert set(by_task) == {"curves-rte", "curves-cola"}
    (point,) = [v for v in by_task["curves-rte"].spec["data"]["values"] if (v["row"], v["epoch"]) == ("lora", 2)]
    assert (point["low"], point["score"], point["high"]) == (60.0, 61.0, 62.0)


def test_rates_and_what_tuning_cost():
    """Scores are by the rule that chose the rate; a method that no row has is left out."""
    own = [r for r in results() if r.variant == "lora"]
    options = own[0].variant_config
    tuned = [
        run("rte", 0.5 + rate, 42, training__lr=rate, variant_config=options, cost={"wall_s": 3600.0, "stacked": 2},
            epochs=[{"epoch": 1, "accuracy": 0.5 + rate, "loss": 100 * rate}])
        for rate in (1e-3, 2e-3)
    ]  # fmt: skip
    others = [run("rte", 0.9, 42, variant="dora", training__lr=rate) for rate in (1e-3, 2e-3)]

    def section_of(trials):
        (section,) = build(own, GLUE, (), trials)
        return section, marked_rows(section)

    (chart,) = list(rate_curves(*section_of(Trials([*tuned, *others]))))
    assert [(v["lr"], v["score"]) for v in chart.spec["data"]["values"]] == [(1e-3, 50.1), (2e-3, 50.2)]
    (chart,) = list(rate_curves(*section_of(Trials(tuned, Rule("loss")))))
    assert [v["score"] for v in chart.spec["data"]["values"]] == [0.1, 0.2]
    assert chart.spec["encoding"]["y"]["title"] == "lowest dev loss"
    epochs = [{"epoch": 1, "neg_perplexity": -3.5}]
    below = [dataclasses.replace(each, metric="neg_perplexity", epochs=epochs) for each in tuned]
    (chart,) = list(rate_curves(*section_of(Trials(below))))
    assert {v["score"] for v in chart.spec["data"]["values"]} == {-3.5}, "no percent"
    (cost,) = list(tuning_cost(*section_of(Trials([*tuned, *others]))))
    assert [v["hours"] for v in cost.spec["data"]["values"] if v["what"] == "tuning"] == [1.0]


def test_what_was_trained_as_a_trial_is_no_second_cost():
    """One run of the row is a trial itself, one was trained as a trial, and one was trained by itself."""
    hour = {"wall_s": 3600.0}
    trials = [run("rte", 0.6, seed, training__lr=rate, cost=hour) for seed, rate in [(0, 1e-3), (1, 1e-3), (0, 2e-3)]]
    costs = {1: hour | {"trained_as": "tuning/runs/x"}, 2: hour}
    own = [trials[0], *(run("rte", 0.6, seed, training__lr=1e-3, cost=cost) for seed, cost in costs.items())]
    (section,) = build(own, GLUE, (), Trials(trials))
    (cost,) = list(tuning_cost(section, marked_rows(section)))
    assert [(v["what"], v["hours"], v["runs"]) for v in cost.spec["data"]["values"]] == [
        ("tuning", 3.0, 3),
        ("training", 1.0, 1),
    ]


def test_places_of_maps_and_shapes_of_methods():
    assert layer_and_role("bert.encoder.layer.2.attention.self.query") == ("2", "attention.query")
    assert layer_and_role("transformer.h.11.mlp.c_fc") == ("11", "c_fc")
    assert layer_and_role("model.layers.0.self_attn.q_proj") == ("0", "self_attn.q_proj")
    assert layer_and_role("classifier") == ("", "classifier")
    assert {mark.marker for mark in (*METHODS.values(), *SPARE)} <= set(SHAPES)
    assert len(set(SHAPES.values())) == len(SHAPES), "no two look alike"


def test_without_the_library_the_page_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write, "library", lambda: None)
    page = write.write_report(folder).read_text(encoding="utf-8")
    assert WITHOUT_LIBRARY in page and "<figure" not in page and "table-1" in page


def test_the_command(folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(write, "library", lambda: None)
    assert report.main([str(folder), "--out", str(folder / "page.html")]) == 0
    assert (folder / "page.html").is_file() and f"report: {folder / 'page.html'}" in capsys.readouterr().out
    with pytest.raises(UserError, match="has no results"):
        report.main([str(folder / "empty")])


@pytest.mark.slow
def test_in_a_browser(tmp_path: Path):
    """Charts are drawn, the table sorts and filters, the legend leaves rows out; nothing is asked of any server."""
    path = write.write_report(SHARED / "embedded-glue", tmp_path / "report.html")
    rows = "[...document.querySelectorAll('tbody tr')].filter((row) => !row.hidden)"
    with browser(1200, 6000) as page:
        page.open(path)
        page.wait("[...document.querySelectorAll('.chart')].every((place) => place.querySelector('svg'))")
        everything = page.value(f"{rows}.length")
        page.value("document.querySelector('.published-too').click()")
        ours = page.value(f"{rows}.length")
        assert 0 < ours < everything and ours == 6
        page.value("""(() => { const box = document.querySelector('.filter'); box.value = 'DORA';
            box.dispatchEvent(new Event('input')); })()""")
        assert page.value(f"{rows}.map((row) => row.dataset.row)") == ["dora"]
        assert page.value("document.querySelector('.count').textContent").startswith("1 of ")
        page.value("""(() => { const box = document.querySelector('.filter'); box.value = '';
            box.dispatchEvent(new Event('input')); })()""")
        column = "[...document.querySelectorAll('thead th')].findIndex((head) => head.textContent == 'MNLI')"
        scores = f"{rows}.map((row) => Number(row.cells[{column}].dataset.value))"
        for descending in (True, False):
            page.value(f"document.querySelectorAll('thead button')[{column}].click()")
            found = page.value(scores)
            assert found == sorted(found, reverse=descending) and len(set(found)) > 1
        bars = "document.querySelectorAll('#chart-1-curves-mnli svg .mark-line path').length"
        before = page.value(bars)
        page.value("document.querySelector('.legend [data-row=vera]').click()")
        page.wait(f"{bars} == {before - 1}")
        against = "document.querySelector('select[data-chart=chart-1-differences-1]')"
        labels = "document.querySelector('#chart-1-differences-1 svg').textContent"
        assert page.value(f"{against}.value") == "lora"
        drawn = page.value("document.querySelector('#chart-1-differences-1 svg').innerHTML")
        page.value(f"{against}.value = 'full'; {against}.dispatchEvent(new Event('change'))")
        page.wait(f"document.querySelector('#chart-1-differences-1 svg').innerHTML != {json.dumps(drawn)}")
        assert "dora" in page.value(labels)
        for width, dark, phone in ((390, True, True), (1200, True, False)):
            page.size(width, 844, dark=dark, phone=phone)
            assert page.value("document.documentElement.scrollWidth") <= width  # the table scrolls, the page does not
            assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
        assert not page.problems
        assert page.requests == [path.resolve().as_uri()]
