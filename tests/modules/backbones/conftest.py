"""A tiny RoBERTa, as files and as a folder, and a cache for each test."""

from pathlib import Path

import pytest

from tests.support.hub_server import tiny_roberta


@pytest.fixture(scope="session")
def roberta() -> dict[str, bytes]:
    return tiny_roberta()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path, roberta) -> Path:
    """A model folder as `save_pretrained` writes it."""
    path = tmp_path / "tiny-roberta"
    path.mkdir()
    for name, content in roberta.items():
        (path / name).write_bytes(content)
    return path
