"""Plots and `paper_repro/tables.py`: the same bytes for the same data, nothing stale, what is shipped is current."""

import math
import shutil
import sys
from pathlib import Path

import pytest

from modules.benchmarks.glue import GLUE
from modules.reports.formats.markdown import to_markdown
from modules.reports.plots.files import plots, stale_plots, write_plots
from modules.reports.plots.image_files import FORMATS
from modules.reports.plots.layout import window
from modules.reports.plots.palette import METHODS, SPARE, marks
from modules.reports.plots.pareto import MARKER
from modules.reports.plots.style import names_of
from modules.reports.tables.build import build
from modules.reports.tables.rank_study import about, find, grid, target_name
from modules.runs.results import ResultStore
from paper_repro import tables
from tests.support.results import run
from variants.errors import UserError
from variants.registry import BUILT_IN

REFERENCE = Path(__file__).resolve().parents[3] / "results" / "reference"


def results(variants=("full", "lora"), tasks=("rte", "cola"), seeds=3, score=0.6):
    epochs = [{"epoch": k, "accuracy": 0.5 + 0.01 * k, "matthews": 0.4 + 0.01 * k} for k in (1, 2)]
    sizes = {"full": 1000, "lora": 10, "head": 0}
    return [
        run(task, score + 0.01 * seed, seed, variant=variant, epochs=epochs, parameters__adapter=sizes[variant])
        for variant in variants
        for task in tasks
        for seed in range(seeds)
    ]


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes_and_are_not_drawn_again(tmp_path, monkeypatch):
    runs = results()  # `run` numbers its ids, so the same objects stand for the same files
    first = write_plots(tmp_path / "a", build(runs, GLUE))
    second = write_plots(tmp_path / "b", build(runs[::-1], GLUE))
    names = {f"glue-{what}.{kind}" for what in ("pareto", "tasks", "curves") for kind in FORMATS}
    assert {path.name for path in first} == names
    for one, other in zip(first, second, strict=True):
        content = one.read_bytes()
        assert content == other.read_bytes()
        assert b"matplotlib" not in content.lower().replace(b"matplotlib.axis_", b"")  # no version, no date
        assert b"<dc:date" not in content
    assert not stale_plots(tmp_path / "a", build(runs, GLUE))
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # up to date: nothing is drawn
    assert write_plots(tmp_path / "a", build(runs, GLUE)) == first
    assert len(stale_plots(tmp_path / "a", build([*runs, run("rte", 0.9, 7)], GLUE))) == len(names)


def test_without_matplotlib_one_line_says_what_to_do_and_tables_are_written(tmp_path, monkeypatch, capsys):
    store = ResultStore(tmp_path)
    for result in results():
        store.write(result)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="pip install"):
        write_plots(tmp_path, build(store.all(), GLUE))
    assert tables.main([str(tmp_path)]) == 0
    assert "no plots: plots need matplotlib" in capsys.readouterr().err
    assert (tmp_path / "tables" / "glue.md").is_file() and (tmp_path / "tables" / "papers" / "lora-2.tex").is_file()


def test_what_the_pareto_plot_shows(tmp_path):
    from matplotlib import rc_context

    (section,) = build(results(("full", "lora", "head")), GLUE)
    with rc_context():
        figure = plots(section)["pareto"](section)
    ax = figure.axes[0]
    assert ax.get_ylabel() == "mean of CoLA, RTE" and ax.get_xscale() == "log"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels.count("lora") == 1 and {"full", "head"} <= set(labels)
    assert [label.get_text() for label in ax.get_xticklabels()][0] == "0"  # the frozen backbone trains nothing
    assert "roberta-base" in figure.get_suptitle()
    centres = sorted(float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() in ("o", "s", "^"))
    assert centres == pytest.approx([61.0] * 3)


def test_markers_at_equal_budgets_do_not_cover_one_another():
    from matplotlib import rc_context

    names = ["lora", "dora", "vera", "adalora", "adapter_h", "adapter_l", "adapter_p", "mine", "bitfit"]
    runs = [
        run(task, 0.6 + 0.0003 * k + 0.01 * seed, seed, variant=name, parameters__adapter=74_000)
        for k, name in enumerate(names[:-1])
        for task in ("rte", "cola")
        for seed in (0, 1)
    ]
    runs += [
        run(task, 0.5 + 0.01 * seed, seed, variant="bitfit", parameters__adapter=9_000)
        for task in ("rte", "cola")
        for seed in (0, 1)
    ]
    (section,) = build(runs, GLUE)
    with rc_context():
        figure = plots(section)["pareto"](section)
        figure.draw_without_rendering()
    ax = figure.axes[0]
    points = [line for line in ax.lines if len(line.get_xdata()) == 1]
    places = [ax.transData.transform((line.get_xdata()[0], line.get_ydata()[0])) for line in points]
    places = [place for place, line in zip(places, points, strict=True) if line.get_marker() not in ("_", "|", "None")]
    assert len(places) == len(names)
    apart = [math.dist(a, b) * 72 / figure.dpi for k, a in enumerate(places) for b in places[:k]]
    assert min(apart) >= 0.9 * MARKER
    marked = {(line.get_color(), line.get_marker()) for line in points if line.get_marker() not in ("_", "|", "None")}
    assert len(marked) == len(names)  # every method has a mark of its own


def test_scores_below_the_axis_can_be_read_at_equal_budgets():
    """They stood one over the other, as VB-LoRA's and the prefixes' did on E2E."""
    names = ["lora", "dora", "vera", "adalora", "adapter_h", "adapter_l", "adapter_p", "pissa"]
    low = ["vblora", "prefix_embed", "prefix_layer"]
    runs = [
        run("rte", score + 0.001 * k, seed, variant=name, parameters__adapter=74_000)
        for score, group in ((0.6, names), (0.2, low))
        for k, name in enumerate(group)
        for seed in (0, 1)
    ]
    (section,) = build(runs, GLUE)
    figure = plots(section)["pareto"](section)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(low)
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_low_scores_leave_the_axis_below_a_gap_alone():
    assert window([20, 61, 62, 63, 64]) == (61, 64)
    assert window([44, 46, 48, 50, 52, 54]) == (44, 54)  # evenly spread: nothing is left out
    assert window([20, 21, 60, 61, 62]) == (20, 62)  # more than a third
    assert window([50.0]) == (50.0, 50.0) and window([50.0, 50.0, 50.0]) == (50.0, 50.0)


def test_a_method_has_its_own_mark_in_every_figure():
    assert set(METHODS) == set(BUILT_IN)
    for column in ([mark.colour for mark in METHODS.values()], [mark.marker for mark in METHODS.values()]):
        assert len(set(column)) == len(METHODS)
    for mark in (*METHODS.values(), *SPARE):  # WCAG: 3 to 1 against white for graphics
        channels = [int(mark.colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        assert 1.05 / (luminance + 0.05) >= 3, mark
    assert marks(["mine", "lora"])["lora"] == marks(["lora", "another"])["lora"] == METHODS["lora"]


def test_curves_name_the_tasks_that_have_none():
    runs = [*results(), *(run("sst2", 0.9, seed, epochs=[{"epoch": 1, "accuracy": 0.9}]) for seed in (0, 1))]
    from matplotlib import rc_context

    (section,) = build(runs, GLUE)
    with rc_context():
        figure = plots(section)["curves"](section)
    assert "SST-2: one epoch, so no curve" in figure.legends[0].get_title().get_text().replace("\n", " ")
    assert [ax.get_title() for ax in figure.axes] == ["CoLA", "RTE"]
    assert all(ax.get_xlim()[0] == 1 for ax in figure.axes)


def test_a_truncated_run_has_no_curve():
    epochs = [{"epoch": k, "accuracy": 0.1 * k, "loss": 1.0} for k in (1, 2)]
    runs = [run("rte", 0.2, seed, epochs=epochs, trainer={"limit_train_batches": 2} if seed else {}) for seed in (0, 1)]
    (section,) = build(runs, GLUE)
    assert {row.runs[0].truncated: row.by_epoch("rte") for row in section.rows} == {
        False: {1: [10.0], 2: [20.0]},
        True: {},
    }
    assert "curves" not in plots(build(runs[1:], GLUE)[0])


def test_rank_study_is_recognised_and_laid_out_as_the_papers():
    runs = [
        run(task, 0.5 + r / 1000 + place / 100, seed, variant_config={"target": target, "r": r, "alpha": 2 * r})
        for place, target in enumerate(("q", "attn-qv", "o,k,v,q"))
        for r in (1, 8, 64)
        for task in ("rte", "mrpc")
        for seed in (0, 1)
    ]
    others = [run("sst2", 0.9, 0, variant_config={"target": "q", "r": r}, training={"epochs": 1}) for r in (1, 8)]
    (section,) = build([*runs, *others], GLUE)
    (study,) = find(section)  # those that are trained in another way are none of it
    assert study.targets == ["q", "q,v", "q,k,v,o"] and study.ranks == [1, 8, 64]
    lines = grid(study, section)
    assert lines[0] == ["", "Matrices", "r=1", "r=8", "r=64"]
    by_name = {(line[0], line[1]): line[2:] for line in lines[1:]}
    assert by_name["RTE", "q,v"] == ["51.1 ±0.0", "51.8 ±0.0", "57.4 ±0.0"]
    assert by_name["Mean", "q"] == ["50.1 ±0.0", "50.8 ±0.0", "56.4 ±0.0"] and len(by_name) == 12
    assert "rank" in plots(section)
    groups = {names_of(row, section)[0] for row in section.rows}
    assert groups == {"lora q", "lora attn-qv", "lora o,k,v,q"}
    assert not find(build([r for r in runs if r.variant_config["target"] == "q"], GLUE)[0])
    assert target_name("v, q") == "q,v" and target_name("attn") == "q,k,v,o" and target_name("*.dense") == "*.dense"


def test_full_fine_tuning_is_a_level_of_a_rank_study_on_few_bits():
    """QLoRA's Figure 2: LoRA on NF4 against full fine-tuning, which needs the base as it is."""
    runs = [
        run("rte", 0.5 + r / 1000, seed, variant_config={"target": target, "r": r}, training={"quantise": "nf4"})
        for target in ("attn-qv", "up,down", "all-linear")
        for r in (2, 8)
        for seed in (0, 1)
    ]
    own = {"variant": "full", "variant_config": {}}
    full = [run("rte", 0.6 + lr, seed, training={"lr": lr}, **own) for lr in (0.01, 0.02) for seed in (0, 1)]
    longer = [run("rte", 0.9, seed, training={"lr": 0.01}, **own | {"protocol": "other"}) for seed in (0, 1)]
    (section,) = build([*runs, *full, *longer], GLUE)
    (study,) = find(section)
    assert study.base == "nf4" and study.targets == ["q,v", "up,down", "all-linear"]
    assert about(study) == (
        "The base is in nf4. Level without a rank, on the base as it is: full lr=0.01, RTE 61.0 ±0.0. "
        "Level without a rank, on the base as it is: full lr=0.02, RTE 62.0 ±0.0."
    )
    assert "The base is in nf4." in to_markdown([section], GLUE)
    (ax,) = plots(section)["rank"](section).axes
    levels = {line.get_label(): set(line.get_ydata()) for line in ax.lines if str(line.get_label()).startswith("full")}
    assert {name: round(min(ys), 6) for name, ys in levels.items()} == {"full lr=0.01": 61.0, "full lr=0.02": 62.0}
    (dense,) = find(build([r for r in (*runs, *full) if r.variant == "lora"], GLUE)[0])
    assert dense.levels == () and "Level" not in about(dense)


@pytest.mark.slow
def test_what_is_shipped_is_what_the_script_writes(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_check_finds_a_changed_table_and_leaves_it(tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(REFERENCE / "embedded-e2e", folder)
    assert tables.main([str(folder), "--check"]) == 1  # the papers' tables of this folder are not there
    tables.main([str(folder), "--no_plots"])
    assert tables.main([str(folder), "--check"]) == 0
    table = folder / "tables" / "e2e.md"
    table.write_text(spoiled := table.read_text().replace("41.6", "47.6"))
    capsys.readouterr()
    assert tables.main([str(folder), "--check"]) == 1 and table.read_text() == spoiled
    assert "would change" in (err := capsys.readouterr().err) and "e2e.md" in err and "e2e.csv" not in err
    (folder / "tables" / "e2e-pareto.png").unlink()
    tables.main([str(folder), "--check"])
    assert "e2e-pareto.png" in capsys.readouterr().err


def test_a_folder_without_runs_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="has no results"):
        tables.main([str(tmp_path)])
