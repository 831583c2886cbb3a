"""Pictures of a search: one curve of learning rates for each row, in the units of the score."""

from __future__ import annotations

import pytest

from modules.comparison.search_plot import rates, with_rates
from modules.comparison.trials import Trial

figures = pytest.importorskip("matplotlib.figure", reason="needs the extra 'plots'")


def test_each_row_has_its_best_score_at_each_rate(make) -> None:
    rows = {name: {"lr": [0.01, 0.1], "options": {"r": [1, 2]}} for name in ("lora", "dora")}
    comparison = make({}, variants=rows)
    every = comparison.rows()
    score = {(1, 0.01): -3.0, (2, 0.01): -2.0, (1, 0.1): -5.0, (2, 0.1): None}
    trials = {
        row.name: [Trial({"r": r, "lr": lr}, (), value, metric="neg_perplexity") for (r, lr), value in score.items()]
        for row in every
    }
    figure = figures.Figure()
    rates(figure, comparison, with_rates(every, trials), trials)
    (axis,) = figure.axes
    drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}
    assert drawn == {name: ([0.01, 0.1], [-2.0, -5.0]) for name in ("lora", "dora")}
    assert (axis.get_xscale(), axis.get_ylabel()) == ("log", "dev neg_perplexity")
    assert not with_rates(every[:1], trials), "of one row `search` has it all"
