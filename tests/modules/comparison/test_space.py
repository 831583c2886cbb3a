"""Dimensions: lists, ranges, points of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modules.comparison.space import dimension, drawn, grid, size, words


def space(**values):
    return [dimension("options", name, value) for name, value in values.items()]


@pytest.mark.parametrize(
    "value", [8, "q,v", None, True, {}, {"min": 1}, {"min": 1, "max": 2, "other": 3}, {"q": {"r": 2}}]
)
def test_a_single_value_is_no_dimension(value):
    assert dimension("options", "x", value) is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "empty list"),
        ([1, 2, 1], "1 stands twice"),
        ({"min": 2, "max": 1}, "min 2 must be below max 1"),
        ({"min": "1e-4", "max": 1}, "write 1.0e-3, not 1e-3"),
        ({"min": True, "max": 2}, "numbers as min"),
        ({"min": 0, "max": 1, "log": True}, "min above 0"),
        ({"min": 1, "max": 9, "log": True, "step": 2}, "no step"),
        ({"min": 1, "max": 9, "step": 20}, "step 20 must be positive, and fit"),
        ({"min": 1, "max": 9, "log": 1}, "true or false as log"),
    ],
)
def test_what_is_no_list_and_no_range_is_said(value, says):
    with pytest.raises(ValueError, match=says):
        dimension("options", "x", value)


def test_a_grid_has_every_point_once():
    both = space(r=[2, 4, 8], target=["q", "q,v"])
    points = grid(both)
    assert size(both) == len(points) == 6 and len({words(point) for point in points}) == 6
    assert points[0] == {"r": 2, "target": "q"} and grid([]) == [{}]
    assert grid(space(sizes=[[1, 2], [3]])) == [{"sizes": [1, 2]}, {"sizes": [3]}], "a list may be a value"


def test_trainer_options_have_the_name_of_their_flag():
    (each,) = [dimension("trainer", "accumulate_grad_batches", [1, 2])]
    assert each.key == "trainer.accumulate_grad_batches"


@given(
    low=st.integers(1, 50),
    width=st.integers(1, 500),
    kind=st.sampled_from([{}, {"log": True}, {"step": 1}, {"step": 0.25}]),
    whole=st.booleans(),
    seed=st.integers(0, 9),
)
def test_draws_lie_in_the_range_and_on_its_steps(low, width, kind, whole, seed):
    ends = (low, low + width) if whole else (low / 7, (low + width) / 7)
    assume(kind.get("step", 0) <= ends[1] - ends[0])
    each = dimension("options", "x", {"min": ends[0], "max": ends[1]} | kind)
    for _ in range(20):
        value = each.draw(random.Random(seed))
        assert ends[0] <= value <= ends[1] + 1e-9
        if each.whole:
            assert isinstance(value, int)
        if each.step:
            assert (value - ends[0]) / each.step == pytest.approx(round((value - ends[0]) / each.step))


def test_draws_in_the_logarithm_have_equal_shares_of_each_decade():
    each, rng = dimension("common", "lr", {"min": 1e-4, "max": 1e-2, "log": True}), random.Random(0)
    small = sum(each.draw(rng) < 1e-3 for _ in range(2000))
    assert 900 < small < 1100


def test_random_points_are_different_and_the_same_again():
    wide = space(r=[2, 4, 8], lr={"min": 1e-4, "max": 1e-2, "log": True})
    points = drawn(wide, 30, seed=7)
    assert len({words(point) for point in points}) == 30
    assert points == drawn(wide, 30, seed=7) != drawn(wide, 30, seed=8)
    assert points[:10] == drawn(wide, 10, seed=7), "more trials go on from those that were done"


def test_a_space_of_fewer_points_than_trials_is_tried_whole():
    assert drawn(space(r=[2, 4, 8]), 5, seed=0) == [{"r": 2}, {"r": 4}, {"r": 8}]
    assert sorted(point["r"] for point in drawn(space(r={"min": 2, "max": 5}), 50, seed=0)) == [2, 3, 4, 5]
