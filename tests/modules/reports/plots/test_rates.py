"""The picture of the rates: what is drawn for a method, and when it is drawn anew."""

from __future__ import annotations

import pytest

from modules.reports.plots.files import stale_plots, write_plots
from modules.reports.plots.rates import rates
from tests.modules.reports.tables.test_rate_curves import grid, section_of
from tests.support.results import run as result_of

pytest.importorskip("matplotlib", reason="needs the extra 'plots'")


def test_each_method_has_a_facet_with_its_means_and_seeds_and_loras_curve_in_grey():
    runs = grid("lora", {0.01: 0.5, 0.1: 0.9}) + grid("dora", {0.01: 0.7, 0.1: 0.6})
    axes = rates(section_of(runs)).axes
    assert [axis.get_title() for axis in axes] == ["lora", "dora"]
    grey, own = axes[1].get_lines()
    assert list(grey.get_ydata()) == pytest.approx([50, 90]) and list(own.get_ydata()) == pytest.approx([70, 60])
    points = [float(y) for part in axes[1].collections for _, y in part.get_offsets()]
    assert sorted(points) == pytest.approx(sorted([68, 72, 58, 62, 70])), "the seeds, and the star of the best"
    assert axes[0].get_xlim() == axes[1].get_xlim() and axes[0].get_xscale() == "log"


def test_the_picture_is_drawn_anew_where_a_trial_differs(tmp_path):
    runs, own = grid("lora", {0.01: 0.5, 0.1: 0.9}), [result_of()]
    write_plots(tmp_path, [section_of(runs, own=own)], "rates")
    assert {path.name for path in tmp_path.iterdir()} == {"glue-rates.png", "glue-rates.svg"}
    assert not [path for path in stale_plots(tmp_path, [section_of(runs, own=own)]) if "rates" in path.name]
    runs[0].epochs[1]["accuracy"] = 0.1
    assert [path.name for path in stale_plots(tmp_path, [section_of(runs, own=own)]) if "rates" in path.name]
