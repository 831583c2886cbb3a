"""What the plot of learning against drift shows."""

from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.benchmarks.glue import GLUE
from modules.reports.plots.drift import drift, has_drift, points
from modules.reports.plots.files import plots
from modules.reports.tables.build import build
from tests.support.results import run
from variants.registry import BUILT_IN

PREFIXES = ("prefix_embed", "prefix_layer", "prefix_tuning")


def result(seed=0, **changes):
    test = {"epoch": 2, "taught": 0.5, "neg_drift": -0.1, "nearest": 0.2}
    test |= {"taught_at_0.5": 0.25, "neg_drift_at_0.5": -0.05}
    dev = {"neg_heldout_loss": -0.1}
    known = {"benchmark": "dreambooth", "metric": "neg_heldout_loss"}
    known |= dict.fromkeys(("best", "last"), {"epoch": 2, **dev})
    return run("style", seed=seed, test=test, **known, **changes)


def test_a_mark_for_each_seed_and_strength():
    runs = [result(seed) for seed in (0, 1)] + [result(variant="full")]
    assert points(runs[0]) == [(0.5, 0.05, 0.25), (1.0, 0.1, 0.5)]
    (section,) = build(runs, DREAMBOOTH)
    assert "drift" in plots(section) and has_drift(section) == ["style"]
    (ax,) = drift(section).axes
    lines = [line.get_xydata().tolist() for line in ax.lines]
    assert sum(len(line) == 1 for line in lines) == 6 and [[0.05, 0.25], [0.1, 0.5]] in lines


def test_more_methods_than_there_are_simple_marks():
    """A letter as a mark was taken for a format: the pictures of 36 methods ended in a traceback."""
    (section,) = build([result(variant=name) for name in BUILT_IN if name not in PREFIXES], DREAMBOOTH)
    (ax,) = drift(section).axes
    assert len({line.get_marker() for line in ax.lines if len(line.get_xydata()) == 1}) > 20


def test_runs_without_these_scores_have_no_such_plot():
    (section,) = build([run("rte")], GLUE)
    assert "drift" not in plots(section)
