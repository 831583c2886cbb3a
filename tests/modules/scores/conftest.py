"""Java is there or not as a test says, and no test remembers another's captions."""

import pytest

from modules.scores import java


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr(java.shutil, "which", lambda program: None)


@pytest.fixture(autouse=True)
def no_memory_of_captions():
    from modules.scores import _captions

    _captions.cache_clear()
