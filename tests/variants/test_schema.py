"""Annotations as the check of a file: types, keys, ranges, and the place that a line names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import pytest

from variants.errors import UserError
from variants.schema import Seed, between, built, checked


class Place(TypedDict):
    name: str


@dataclass(kw_only=True)
class Inner:
    rate: float
    steps: int | None = None


@dataclass(kw_only=True)
class Outer:
    place: Place
    seeds: tuple[Seed, ...] = (0,)
    inner: dict[str, Inner] = field(default_factory=dict)
    share: Annotated[float, between(0, 1)] = 0.5
    kind: Literal["a", "b"] = "a"
    more: dict[str, Any] | list[str] | None = None


WHOLE = {"place": {"name": "n"}}


def test_an_object_is_made_with_what_is_inside():
    made = built(Outer, WHOLE | {"seeds": [1, 2], "inner": {"x": {"rate": 1}}, "more": ["y"]}, "file")
    assert made == Outer(place={"name": "n"}, seeds=(1, 2), inner={"x": Inner(rate=1)}, more=["y"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"place": {}}, "file: place: 'name' is missing"),
        ({"place": None}, "file: place: expected keys and values, found None"),
        ({"place": {"name": 5}}, "file: place: name must be text, not 5"),
        ({"sed": 1}, "file: unknown key 'sed'; did you mean seeds?"),
        ({"seeds": 3}, "file: seeds must be a list, not 3"),
        ({"seeds": [0, -1]}, "file: seeds: entry 2 must lie between 0 and 4,294,967,295, not -1"),
        ({"seeds": [True]}, "file: seeds: entry 1 must be a whole number, not True"),
        ({"inner": {"x": {"rate": "5e-4"}}}, "inner: x: rate must be a number, not '5e-4'; YAML reads 5e-4 as text"),
        ({"inner": {"x": {"rate": 1, "steps": 1.5}}}, "inner: x: steps must be a whole number, not 1.5"),
        ({"share": 2}, "file: share must lie between 0 and 1, not 2"),
        ({"kind": "c"}, "file: kind must be one of a, b, not 'c'"),
        ({"more": 1}, "file: more must be keys and values or a list or null, not 1"),
        ({"place": {"name": list(range(100))}}, "..."),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changes, says):
    with pytest.raises(UserError) as caught:
        built(Outer, WHOLE | changes, "file")
    assert says in str(caught.value) and len(str(caught.value)) < 200


def test_any_annotation_can_be_asked_for():
    assert checked(list[float], [1, 2.5], "x") == [1, 2.5]
    with pytest.raises(UserError, match="x: entry 2 must be a number, not 'a'"):
        checked(list[float], [1, "a"], "x")


def test_values_of_annotated_types():
    for value, kind in ((1, int), (1, float), (True, bool), (None, str | None), (["a"], list[str]), ({"a": 1}, dict)):
        assert checked(kind, value, "x") == value
    for value, kind in (
        (True, int),
        (1.5, int),
        (float("nan"), float),
        (10**400, float),
        ([1], list[str]),
        ("x", bool),
    ):
        with pytest.raises(UserError, match="must be"):
            checked(kind, value, "x")
