"""The benchmark's table of shapes knows the tiny ones."""

import pytest

from modules.efficiency import shapes
from tests.support.efficiency import GPT2, ROBERTA


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", ROBERTA)
    monkeypatch.setitem(shapes.SHAPES, "tiny-gpt2", GPT2)
