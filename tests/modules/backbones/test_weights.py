"""The hash of a backbone follows its weights and is remembered."""

import os
import shutil

import pytest
from safetensors.torch import load_file, save_file

from modules.backbones.weights import weights_hash


def test_hash_follows_the_weights(folder, cache):
    first = weights_hash(folder)
    shutil.copytree(folder, folder.parent / "copy")
    assert weights_hash(folder.parent / "copy") == first
    weights = load_file(folder / "model.safetensors")
    weights["roberta.embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert weights_hash(folder) != first
    assert len(list((cache / "hashes").iterdir())) == 3


def test_hash_is_remembered_until_the_file_changes(folder, monkeypatch):
    first = weights_hash(folder)
    monkeypatch.setattr("modules.backbones.weights.hashlib", None)  # a second reading would need it
    assert weights_hash(folder) == first
    os.utime(folder / "model.safetensors", (1, 1))
    with pytest.raises(AttributeError):
        weights_hash(folder)
