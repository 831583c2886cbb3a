"""A tokenizer of the rows' words, and a cache for each test."""

import pytest

from tests.support.hub_server import tiny_tokenizer
from tests.support.tokens import TEXTS


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer([" ".join(row) for row in TEXTS])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
