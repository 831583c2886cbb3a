"""Shares of a grid's dimensions against an analysis of variance by hand, and PED-ANOVA elsewhere."""

from __future__ import annotations

import pytest

from modules.comparison.importance import importance
from modules.comparison.space import dimension, grid
from modules.comparison.trials import Trial

R, LR = dimension("options", "r", [2, 4, 8]), dimension("common", "lr", [0.1, 0.2])


def trials(formula):
    return [Trial(point, (), formula(point)) for point in grid([R, LR])]


def test_main_effects_of_a_sum_are_its_parts_of_the_variance():
    """Scores 2, 4, 8 (variance 56/9) plus 0 or 3 (variance 9/4): no interaction."""
    found = importance([R, LR], trials(lambda p: p["r"] + 30 * (p["lr"] - 0.1)))
    total = 56 / 9 + 9 / 4
    assert found.shares == pytest.approx({"r": 56 / 9 / total, "lr": 9 / 4 / total})
    assert list(found.shares) == ["r", "lr"] and "0% are interactions" in found.words


def test_an_interaction_is_no_main_effect():
    found = importance([R, LR], trials(lambda p: (p["r"] - 14 / 3) * (1 if p["lr"] == 0.1 else -1)))
    assert found.shares == pytest.approx({"r": 0, "lr": 0}, abs=1e-12) and "100% are interactions" in found.words


def test_elsewhere_it_is_ped_anova_and_says_so():
    wide = dimension("common", "lr", {"min": 1e-4, "max": 1e-1, "log": True})
    points = [{"r": r, "lr": lr} for r in (2, 4, 8) for lr in (1e-4, 1e-3, 1e-2, 1e-1)]
    scores = {1e-4: 1, 1e-3: 3, 1e-2: 4, 1e-1: 2}
    found = importance([R, wide], [Trial(p, (), scores[p["lr"]] + p["r"] / 1000) for p in points])
    assert "PED-ANOVA" in found.words and list(found.shares) == ["lr", "r"] and found.shares["lr"] > 0.8


def test_a_grid_with_a_hole_is_no_whole_grid():
    some = trials(lambda p: p["r"] + p["lr"])
    some[0] = Trial(some[0].point, (), None, "diverged")
    assert "PED-ANOVA" in importance([R, LR], some).words


def test_what_says_nothing_has_no_importance():
    assert not importance([R, LR], trials(lambda p: 1.0)).shares
    assert not importance([R], [Trial({"r": r}, (), r) for r in (2, 4, 8)]).shares


def test_without_optuna_a_word_stands_there(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    some = trials(lambda p: p["r"] + p["lr"])[:5]
    assert "needs Optuna" in importance([R, LR], some).words
