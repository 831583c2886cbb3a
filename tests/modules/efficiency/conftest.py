"""The benchmark's table of shapes knows the tiny ones."""

import pytest

from modules.efficiency.steps import backbones
from tests.support.efficiency import GPT2, ROBERTA


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(backbones.SHAPES, "tiny", ROBERTA)
    monkeypatch.setitem(backbones.SHAPES, "tiny-gpt2", GPT2)
