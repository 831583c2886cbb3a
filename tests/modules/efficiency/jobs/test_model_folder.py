"""Model folders in random weights, as the commands load them."""

import pytest
from transformers import AutoTokenizer

from modules.backbones.loading import load_backbone, load_language_model
from modules.benchmarks.glue.tasks import TASKS
from modules.efficiency.jobs.model_folder import write_model
from modules.efficiency.steps import backbones

SENTENCES = ["a quick fox jumps", "over a lazy dog"] * 5


@pytest.mark.parametrize("shape", ["tiny", "tiny-gpt2"])
def test_a_folder_is_loaded_like_a_published_one(shape, tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.SHAPES, shape, backbones.SHAPES[shape] | {"vocab_size": 300})
    folder = write_model(tmp_path / "it", shape, SENTENCES, vocabulary=290)
    if shape == "tiny":
        model, tokenizer, _ = load_backbone(folder, TASKS["mrpc"])
        assert tokenizer("a fox", "a dog")["input_ids"][0] == tokenizer.cls_token_id == 0
    else:
        model, tokenizer, _ = load_language_model(folder, embedded=("", folder))
        assert tokenizer.eos_token_id == 0
    assert len(AutoTokenizer.from_pretrained(folder)) <= model.config.vocab_size
