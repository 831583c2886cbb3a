"""Lines of an inventor's file: where something stands, is set, or is carried out."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from variants.layer import AdapterLayer
from variants.methods.lora import LoRALayer
from variants.outside.files import load_file
from variants.outside.places import assigned, calling, definition

SOURCE = """
import torch
from variants.methods.lora import LoRALayer
from variants.outside.places import calling

class First(LoRALayer):
    def __init__(self):
        self.t = 0
        self.past = []

    @torch.no_grad()
    def tick(self):
        self.t += 1
        self.past[0] = 1

class Second(First):
    t = None

def change(layer):
    layer.gain = 2

def here():
    return (
        calling()
    )
"""


@pytest.fixture
def own(tmp_path: Path):
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(SOURCE))
    return load_file(path)


def test_an_attribute_is_found_where_it_is_set(own) -> None:
    assert assigned("t", own.First) == "own.py:8" and assigned("t", own.First, last=True) == "own.py:13"
    assert assigned("t", own.Second) == "own.py:8"  # by its base
    assert assigned("past[0]", own.First) == "own.py:9"
    assert assigned("gain", own.Second) == "own.py:20"  # by a function beside the class
    assert assigned("nothing", own.First) == "" == assigned("scaling", LoRALayer, AdapterLayer)


def test_a_function_is_found_behind_its_decorators(own) -> None:
    assert definition(own.First) == "own.py:6" and definition(own.First.tick) == "own.py:11"
    assert definition(int) == ""


def test_the_line_that_is_carried_out(own) -> None:
    assert own.here() == "own.py:24"
    line = calling().split(":")  # of this test, which is an outside file too
    assert line[0] == "test_places.py" and line[1].isdigit()
