"""What is wrong in files from elsewhere is said in one line that names the file, and nothing is left half written."""

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.adapter_files import without_hash
from tests.support.tiny import logits, roberta, trained
from variants import LoRA, VeRA, attach, convert, formats, merge
from variants.errors import UserError, VariantError
from variants.formats import loralib, native, peft
from variants.formats.native import save_adapter
from variants.formats.peft.patterns import Patterns


def refused(call, *words: str) -> None:
    """The call ends in one line that has the words."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert all(word in text for word in words), text
    assert len(text.splitlines()) == 1 and len(text) <= 300


# ---- adapter.json and its tensors -------------------------------------------------------------------------------

OURS = {
    "null": ("null", "holds null and not an object"),
    "a list": ("[1]", "holds list and not an object"),
    "deep": ('{"format":' + "[" * 20_000 + "]" * 20_000 + "}", "cannot be read: RecursionError"),
    "a number of 5000 digits": ('{"format": 1' + "0" * 5000 + "}", "cannot be read: ValueError"),
    "latin-1": ('{"format": "é"}'.encode("latin-1"), "cannot be read: UnicodeDecodeError"),
    "no variant": ('{"format": 1, "options": {}}', "lacks 'variant'"),
}
CHANGES = {
    "variant": ({"variant": 3}, "variant must be text, not 3"),
    "options": ({"options": []}, "options must be keys and values, not []"),
    "seed": ({"seed": "x"}, "seed must be a whole number, not 'x'"),
    "huge seed": ({"seed": 10**400}, "seed must be a whole number, not 1000"),
    "head": ({"head": [1]}, "head: entry 1 must be text, not 1"),
    "base": ({"base": [1]}, "base: expected keys and values, found [1]"),
    "fingerprint": ({"base": {"fingerprint": {}}}, "base: fingerprint must be text, not {}"),
}
OPTIONS = {
    "text": ({"r": "x"}, "r"),
    "none": ({"r": None}, "r"),
    "of no size": ({"r": 0}, "a: r must be at least 1, not 0"),
    "negative": ({"r": -1}, "a: r must be at least 1, not -1"),
    "beyond all memory": ({"r": 10**12}, "is not of the file's tensors, none wider than"),
    "beyond all memory, as text": ({"r": "1000000000000"}, "is not of the file's tensors"),
    "beyond all memory, in one layer": ({"per_layer": {"*": {"r": 10**12}}}, "is not of the file's tensors"),
    "dropout": ({"dropout": 7.0}, "dropout"),
    "per_layer": ({"per_layer": [1]}, "per_layer=[1] is not a map from patterns to options"),
    "per_layer inside": ({"per_layer": {"*": 3}}, "is not a map from patterns to options"),
    "another type": ({"target": ["q"] * 9000}, "target"),
}


@pytest.mark.parametrize("text, words", OURS.values(), ids=OURS)
def test_an_adapter_json_that_is_none(text, words, tmp_path):
    save_adapter(attach(roberta(), LoRA(r=2)), tmp_path)
    (tmp_path / native.CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(lambda: formats.load(roberta(), tmp_path), words, str(tmp_path))


@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_an_entry_of_another_type(change, words, tmp_path):
    _refused_everywhere(tmp_path, lambda config: config | change, words)


@pytest.mark.parametrize("options, words", OPTIONS.values(), ids=OPTIONS)
def test_an_option_of_another_type_or_size(options, words, tmp_path):
    _refused_everywhere(tmp_path, lambda config: config | {"options": config["options"] | options}, words)


def _refused_everywhere(folder, changed, words: str) -> None:
    """From Python and by the command; the model is left as it was, and nothing is written."""
    save_adapter(attach(roberta(), LoRA(r=2)), folder / "a")
    config = json.loads((folder / "a" / native.CONFIG).read_text())
    (folder / "a" / native.CONFIG).write_text(json.dumps(changed(config)))
    refused(lambda: formats.load(roberta(), folder / "a"), words)
    refused(lambda: convert.convert(folder / "a", folder / "out", "peft"))
    adapted = attach(roberta(), LoRA(r=2), name="first")
    before = logits(adapted.model)
    refused(lambda: formats.load(adapted, folder / "a", name="second"))
    assert adapted.active == "first" and torch.equal(logits(adapted.model), before)
    assert not (folder / "out").exists()


def test_a_name_of_twenty_thousand_letters_is_cut(tmp_path):
    save_adapter(attach(roberta(), LoRA(r=2)), tmp_path)
    tensors = load_file(without_hash(tmp_path) / native.TENSORS)
    save_file(tensors | {"x" * 20_000 + "\n": torch.zeros(1)}, tmp_path / native.TENSORS)
    refused(lambda: formats.load(roberta(), tmp_path), "which lora does not have in this model")
    config = json.loads((tmp_path / native.CONFIG).read_text())
    (tmp_path / native.CONFIG).write_text(json.dumps(config | {"variant": "v\n" * 20_000 + ".py:X"}))
    refused(lambda: formats.load(roberta(), tmp_path), str(tmp_path))


# ---- PEFT's configuration ---------------------------------------------------------------------------------------

PEFT = {
    "no rank": ({"r": None}, "lacks 'r'"),
    "rank 0": ({"r": 0}, "r=0 is not above 0"),
    "a rank of text": ({"r": "8"}, "r must be a whole number, not '8'"),
    "infinite alpha": ({"lora_alpha": 1e400}, "lora_alpha must be a number, not inf"),
    "a pattern of lists": ({"alpha_pattern": ["q"]}, "alpha_pattern must be keys and values, not ['q']"),
    "a type of numbers": ({"peft_type": 3}, "peft_type must be text, not 3"),
    "a start that is a list": ({"init_lora_weights": [1] * 500}, "changes the base weights"),
    "another option": ({"layer_replication": [[0, 4]] * 500}, "layer_replication"),
    "no expression": ({"alpha_pattern": {"q(": 3.0}}, "is no regular expression"),
}


@pytest.mark.parametrize("change, words", PEFT.values(), ids=PEFT)
def test_a_peft_configuration_that_cannot_be(change, words, tmp_path):
    peft.save(trained(roberta(), LoRA(r=2)), tmp_path)
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    (tmp_path / peft.CONFIG).write_text(json.dumps(config | change))
    refused(lambda: formats.load(roberta(), tmp_path), words, str(tmp_path))


def test_a_folder_without_layers_is_no_untrained_adapter(tmp_path):
    peft.save(trained(roberta(), LoRA(r=2)), tmp_path)
    tensors = {k: t for k, t in load_file(tmp_path / peft.TENSORS).items() if "lora" not in k}
    save_file(tensors, tmp_path / peft.TENSORS)
    refused(lambda: formats.load(roberta(), tmp_path), "it would load as an untrained one")


def test_veras_rank_is_the_files(tmp_path):
    peft.save(trained(roberta(), VeRA(r=5)), tmp_path)
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    (tmp_path / peft.CONFIG).write_text(json.dumps(config | {"r": 10**9}))
    refused(lambda: formats.load(roberta(), tmp_path), "r=1000000000, and", "has 5")


# ---- patterns (catastrophic regular expressions) ------------------------------------------------------------------

EVIL = ["(a+)+$", "(.*)*x", "(q|q)*z", "([a-z]+)*1", "(?:a{1,9}){9}", ".*.*.*.*.*x", "(a|a)(a|a)(a|a)(a|a)(a|a)z"]


@pytest.mark.parametrize("key", [*EVIL, "x" * 600 + ".*"])
def test_a_pattern_that_may_take_forever_is_refused(key, tmp_path):
    peft.save(trained(roberta(), LoRA(r=2)), tmp_path)
    config = json.loads((tmp_path / peft.CONFIG).read_text())
    (tmp_path / peft.CONFIG).write_text(json.dumps(config | {"alpha_pattern": {key: 3.0}}))
    refused(lambda: formats.load(roberta(), tmp_path), "may take forever to match")


def test_patterns_of_everyday_use_match_as_pefts_do():
    path = "model.layers.11.self_attn.q_proj"
    for key in (
        "q_proj",
        "self_attn.q_proj",
        r".*\.1[01]\..*(q|v)_proj",
        f"^{path}",
        r"layers\.\d+\.self_attn\.\w_proj",
    ):
        assert Patterns("x", {"k_proj": 1, key: 2}).at(path, 0) == 2, key
    for key in ("proj", "^q_proj", r"layers\.1\..*"):
        assert Patterns("x", {key: 2}).at(path, 0) == 0, key


def test_many_slow_patterns_end_in_time():
    start = time.monotonic()
    slow = Patterns("x", {f".*a.*a.*a.*{i}": 1.0 for i in range(2000)})
    slow.end = start + 0.2
    with pytest.raises(VariantError, match="take too long to match"):
        for _ in range(1000):
            slow.at("a" * 120, 0)
    assert time.monotonic() - start < 5


# ---- loralib's files ----------------------------------------------------------------------------------------------

SITE = "roberta.encoder.layer.0.attention.self.query"


def pair(a: torch.Tensor, b: torch.Tensor | None = None) -> dict:
    return {f"{SITE}.lora_A": a, f"{SITE}.lora_B": torch.zeros(16, 2) if b is None else b}


LORALIB = {
    "empty": b"",
    "text": b"hello\n",
    "no rank": pair(torch.zeros(0, 16), torch.zeros(16, 0)),
    "a number": pair(torch.zeros(())),
    "a vector": pair(torch.zeros(16)),
    "three dimensions": pair(torch.zeros(2, 2, 16)),
    "whole numbers": pair(torch.zeros(2, 16, dtype=torch.int64)),
    "sparse": pair(torch.zeros(2, 16).to_sparse()),
    "one zero for a billion": pair(torch.zeros(1, 1).expand(10**9, 16)),
    "names that are numbers": {1: torch.zeros(2)},
    "a set": {"x": {1, 2}},
}


@pytest.mark.parametrize("content", LORALIB.values(), ids=LORALIB)
def test_a_loralib_file_that_is_none(content, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / "lora.bin").write_bytes(content)
    else:
        torch.save(content, tmp_path / "lora.bin")
    refused(lambda: formats.load(roberta(), tmp_path / "lora.bin", alpha=4.0), "lora.bin")
    refused(lambda: convert.convert(tmp_path / "lora.bin", tmp_path / "out", "ours", alpha=4.0))
    assert not (tmp_path / "out").exists()


def test_a_truncated_loralib_file_and_an_alpha_that_is_no_number(tmp_path):
    loralib.save(trained(roberta(), LoRA(r=2)), tmp_path / "lora.bin")
    refused(lambda: formats.load(roberta(), tmp_path / "lora.bin", alpha=float("inf")), "alpha=inf")
    data = (tmp_path / "lora.bin").read_bytes()
    for length in (1, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "lora.bin").write_bytes(data[:length])
        refused(lambda: formats.load(roberta(), tmp_path / "lora.bin", alpha=4.0), "is no loralib file")


# ---- places and model folders -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "model"
    roberta().save_pretrained(folder)
    return folder


def test_a_place_that_cannot_be_written(base, tmp_path, capsys):
    save_adapter(trained(roberta(), LoRA(r=2)), tmp_path / "ours")
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for to in ("ours", "peft", "loralib"):
        for place in (tmp_path / "file/out", tmp_path / ("x" * 300)):
            assert convert.main([str(tmp_path / "ours"), str(place), "--to", to]) == 2
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "folder"), "--to", "loralib"]) == 2
    assert convert.main([str(tmp_path / "ours"), str(tmp_path / "file"), "--to", "peft"]) == 2
    for place in (tmp_path / "file/out", tmp_path / "file/a/out", tmp_path / ("x" * 300)):
        assert merge.main([str(tmp_path / "ours"), "--model", str(base), "--out", str(place)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 11 and all("cannot write" in line and len(line) <= 320 for line in errors), errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder", "ours"] and not any(
        (tmp_path / "folder").iterdir()
    )


def test_damaged_model_weights(base, tmp_path, capsys):
    save_adapter(trained(roberta(), LoRA(r=2)), tmp_path / "ours")
    shutil.copytree(base, tmp_path / "half")
    weights = tmp_path / "half/model.safetensors"
    for data in (weights.read_bytes()[:5000], b"", b"text"):
        weights.write_bytes(data)
        capsys.readouterr()
        assert merge.main([str(tmp_path / "ours"), "--model", str(weights.parent), "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "cannot load the model" in error and len(error) <= 320
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["Trainer", "pipeline", "os", "AutoTokenizer", "RobertaConfig", "x" * 900])
def test_a_file_names_no_other_class_than_a_model(name, base, tmp_path):
    folder = save_adapter(trained(roberta(), LoRA(r=2)), tmp_path / "ours")
    config = json.loads((folder / native.CONFIG).read_text())
    config["base"]["class"] = name
    (folder / native.CONFIG).write_text(json.dumps(config))
    refused(lambda: convert.convert(folder, tmp_path / "out", "peft", str(base)), "is no model class of transformers")
