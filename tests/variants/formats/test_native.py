"""The native file: it holds all that trains and nothing of the base, and what does not fit is named."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.adapter_files import without_hash
from tests.support.small_module import Biases, Top, out, tiny, train
from variants import DoRA, Full, Head, LoRA, VariantError, attach, load
from variants.contract.models import one_thread
from variants.convert import convert
from variants.errors import UserError
from variants.formats.native import CONFIG, TENSORS, save_adapter


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    with one_thread():
        yield


@pytest.mark.parametrize(
    "variant", [LoRA(r=3, per_layer={"v_proj": {"r": 5}}), Top(), Full(), Head(), Biases(), DoRA(r=4)]
)
def test_saved_and_loaded_is_the_same_bit_for_bit(variant, tmp_path) -> None:
    adapted = attach(tiny(), variant, seed=4)
    train(adapted)
    folder = save_adapter(adapted, tmp_path / "new" / "folder", task="mrpc")
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, TENSORS], "no temporary file is left"
    config = json.loads((folder / CONFIG).read_text())
    assert config["seed"] == 4 and config["task"] == "mrpc" and config["options"] == variant.options()
    assert config["parameters"] == adapted.count()
    loaded = load(tiny(), folder, strict=True)
    assert loaded.variant == variant and loaded.head == adapted.head
    assert torch.equal(out(loaded.model), out(adapted.model))
    assert loaded.count() == adapted.count()


def test_saving_leaves_a_merged_adapter_merged(tmp_path) -> None:
    adapted = attach(tiny(), DoRA(r=4))
    train(adapted)
    adapted.merge()
    merged = out(adapted.model)
    save_adapter(adapted, tmp_path)
    assert adapted.state.merged and torch.equal(out(adapted.model), merged)
    assert torch.allclose(out(load(tiny(), tmp_path, strict=True).model), merged, atol=1e-5)


def test_a_file_holds_all_that_trains_and_no_base(tmp_path) -> None:
    adapted = attach(tiny(), LoRA(r=4))
    names = set(load_file(save_adapter(adapted, tmp_path) / TENSORS))
    paths = [f"base_model.layers.{i}.self_attn.{x}_proj" for i in (0, 1) for x in "qv"]
    assert names == {f"{p}.lora_{x}" for p in paths for x in "AB"} | {"score.weight", "score.bias"}


def test_loading_beside_another_adapter(tmp_path) -> None:
    other = attach(tiny(), Top(), seed=1)
    train(other)
    save_adapter(other, tmp_path)
    adapted = attach(tiny(), LoRA(r=4), name="a")
    train(adapted, 5)
    a = out(adapted.model)
    assert load(adapted, tmp_path, name="b", strict=True) is adapted
    assert torch.equal(out(adapted.model), out(other.model))
    adapted.switch("a")
    assert torch.equal(out(adapted.model), a)


def test_an_adapter_without_head_loads_without_one(tmp_path) -> None:
    adapted = attach(tiny(), LoRA(r=4), head=[])
    train(adapted)
    save_adapter(adapted, tmp_path)
    loaded = load(tiny(), tmp_path, strict=True)
    assert loaded.head == [] and torch.equal(out(loaded.model), out(adapted.model))


def _damage(folder: Path, how: str) -> None:
    without_hash(folder)
    tensors, config = load_file(folder / TENSORS), json.loads((folder / CONFIG).read_text())
    name = next(n for n in tensors if n.endswith("lora_A"))
    if how == "missing":
        del tensors[name]
    elif how == "head":
        del tensors["score.bias"]
    elif how == "unknown":
        tensors["extra.thing"] = torch.zeros(1)
    elif how == "shape":
        tensors[name] = tensors[name][:, :3].contiguous()
    elif how == "dtype":
        tensors[name] = tensors[name].int()
    elif how == "truncated":
        (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9])
        return
    elif how == "format":
        config["format"] = 99
    elif how == "variant":
        config["variant"] = "lroa"
    elif how == "options":
        config["options"]["colour"] = "red"
    elif how == "json":
        (folder / CONFIG).write_text("{")
        return
    save_file(tensors, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", r"the file lacks .*q_proj.lora_A, which lora has in this model"),
        ("head", "the file lacks score.bias, which lora trains in this model"),
        ("unknown", "the file has extra.thing, which lora does not have"),
        ("shape", r"q_proj.lora_A is \(4, 3\) in the file and \(4, 16\) in the model"),
        ("dtype", r"q_proj.lora_A is torch.int32 in the file and torch.float32"),
        ("truncated", "is damaged"),
        ("json", "is damaged"),
        ("format", "is not of format 1"),
        ("variant", "unknown variant 'lroa'; did you mean lora"),
        ("options", "lora has other options than the file"),
    ],
)
def test_a_file_that_does_not_fit_names_the_first_thing(how: str, says: str, tmp_path) -> None:
    save_adapter(attach(tiny(), LoRA(r=4)), tmp_path)
    _damage(tmp_path, how)
    adapted = attach(tiny(), LoRA(r=2), name="a")
    train(adapted)
    before = out(adapted.model)
    with pytest.raises(VariantError, match=says):
        load(adapted, tmp_path, name="b")
    assert adapted.active == "a" and torch.equal(out(adapted.model), before), "the model is as it was"


@pytest.mark.parametrize("place", [0.02, 0.5, 0.99], ids=["header", "middle", "end"])
def test_a_flipped_bit_is_never_read(place: float, tmp_path) -> None:
    """A file of any age is readable; one with its hash is what was saved, or an error."""
    save_adapter(attach(tiny(), LoRA(r=4)), tmp_path)
    data = bytearray((tmp_path / TENSORS).read_bytes())
    assert json.loads((tmp_path / CONFIG).read_text())["sha256"] == hashlib.sha256(data).hexdigest()
    data[int(place * len(data))] ^= 1
    (tmp_path / TENSORS).write_bytes(data)
    with pytest.raises(
        VariantError, match=r"is damaged: adapter.safetensors is not the file .* .another SHA-256"
    ) as caught:
        load(tiny(), tmp_path)
    assert "\n" not in str(caught.value)
    data[int(place * len(data))] ^= 1
    (tmp_path / TENSORS).write_bytes(data)
    load(tiny(), tmp_path, strict=True)
    load(tiny(), without_hash(tmp_path), strict=True)


def test_other_tensors_than_were_saved_are_not_converted(tmp_path) -> None:
    folder = save_adapter(attach(tiny(), LoRA(r=4)), tmp_path / "a")
    save_adapter(attach(tiny(), LoRA(r=4), seed=1), tmp_path / "b")
    (folder / TENSORS).write_bytes((tmp_path / "b" / TENSORS).read_bytes())
    with pytest.raises(VariantError, match="another SHA-256"):
        convert(folder, tmp_path / "out", "peft")
    assert not (tmp_path / "out").exists()


def test_another_base_is_noticed(tmp_path) -> None:
    save_adapter(attach(tiny(), LoRA(r=4)), tmp_path)
    other = tiny()
    other.base_model["layers"][1].mlp.up_proj.bias.data[0] += 1
    with pytest.warns(UserWarning, match="was trained on another base model"):
        load(copy.deepcopy(other), tmp_path)
    with pytest.raises(VariantError, match="was trained on another base model"):
        load(other, tmp_path, strict=True)
    load(tiny().bfloat16(), tmp_path, strict=True)  # the same base in another dtype


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(VariantError, match=f"is not an adapter folder: it has no {CONFIG}"):
        load(tiny(), tmp_path)


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    adapted = attach(tiny(), LoRA(r=4))
    save_adapter(adapted, tmp_path)
    old = (tmp_path / TENSORS).read_bytes()
    train(adapted)
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(UserError, match="disk full"):
        save_adapter(adapted, tmp_path)
    assert (tmp_path / TENSORS).read_bytes() == old and len(list(tmp_path.iterdir())) == 2
