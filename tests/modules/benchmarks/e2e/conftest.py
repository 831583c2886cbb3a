"""A tiny GPT-2, a copy of it that a test may change, and E2E's tiny rows."""

import pytest

from modules.backbones.loading import load_language_model
from modules.benchmarks.e2e import E2E, TASK
from modules.benchmarks.e2e.sources import FolderSource
from tests.support.e2e_tiny import text_folder, tiny_gpt2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tiny_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2")
    model, tokenizer, _ = load_language_model(folder, E2E.embedded())
    return model.eval(), tokenizer


@pytest.fixture
def fresh(tiny, tmp_path):
    """A copy that a test may change."""
    import copy

    return copy.deepcopy(tiny[0]), tiny[1]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return FolderSource(text_folder(tmp_path_factory.mktemp("data") / "text")).load(TASK)
