"""A file that names a variant brings no code: peft #3085 and PR 3090, transformers PR 46482."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from tests.support.tiny import logits, roberta, train
from variants import LoRA, VariantError, attach, convert, formats, load, merge, named, registry
from variants.formats.native import CONFIG, read_adapter, save_adapter
from variants.outside.files import code_hash, module_name

FORMULA = """
from dataclasses import dataclass
from variants import Variant
from variants.methods.lora import LoRALayer

class Layer(LoRALayer):
    def delta_weight(self):
        return {sign}super().delta_weight()

    def forward(self, x, y):
        return y + x @ self.delta_weight().T

@dataclass
class Mine(Variant):
    r: int = 2
    alpha: float = 4.0
    rslora: bool = False
    init: str = "kaiming"
    layer, size = Layer, "r"
"""


@pytest.fixture
def hostile(tmp_path) -> Path:
    """An adapter folder with a Python file that its adapter.json names."""
    folder = save_adapter(attach(roberta(), LoRA(r=2)), tmp_path / "hostile")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nX = 1\n")
    return folder


@pytest.mark.parametrize("spec", ["{folder}/evil.py:X", "hostile/evil.py:X", "evil:X", "hostile.evil:X"])
@pytest.mark.parametrize(
    "read",
    [
        lambda folder: load(roberta(), folder),
        lambda folder: load(roberta(), folder, strict=True),
        lambda folder: load(attach(roberta(), LoRA(), name="first"), folder, name="second"),
        lambda folder: formats.load(roberta(), folder),
        lambda folder: convert.convert(folder, folder.parent / "out", "peft"),
        lambda folder: convert.convert(folder, folder.parent / "out", "ours"),
    ],
    ids=["load", "strict", "beside", "any format", "to peft", "to ours"],
)
def test_no_reader_runs_what_a_folder_names(read, spec, hostile, monkeypatch):
    monkeypatch.chdir(hostile.parent)
    monkeypatch.syspath_prepend(str(hostile))
    config = json.loads((hostile / CONFIG).read_text()) | {"variant": spec.format(folder=hostile)}
    (hostile / CONFIG).write_text(json.dumps(config))
    with pytest.raises(VariantError, match="a file brings no code"):
        read(hostile)
    assert sorted(p.name for p in hostile.parent.iterdir()) == ["hostile"], "neither was it run nor anything written"


def test_merge_runs_nothing_either(hostile, tmp_path, capsys):
    roberta().save_pretrained(tmp_path / "base")
    config = json.loads((hostile / CONFIG).read_text()) | {"variant": f"{hostile}/evil.py:X"}
    (hostile / CONFIG).write_text(json.dumps(config))
    assert merge.main([str(hostile), "--model", str(tmp_path / "base"), "--out", str(tmp_path / "out")]) == 2
    assert "a file brings no code" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists() and not (tmp_path / "out").exists()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """An adapter of a method in an inventor's file, saved elsewhere, as another process finds it; and its logits."""
    (tmp_path / "work").mkdir()
    file = tmp_path / "work/mine.py"
    file.write_text(FORMULA.format(sign=""))
    adapted = attach(roberta(), registry.resolve(f"{file}:Mine")())
    train(adapted.trained(), 1)
    folder = save_adapter(adapted, tmp_path / "adapter")
    monkeypatch.delitem(registry.sys.modules, module_name(file))
    return file, folder, logits(adapted.model)


def test_the_caller_names_the_code_from_anywhere(mine, tmp_path):
    file, folder, expected = mine
    shutil.copy(file, tmp_path / "elsewhere.py")
    with pytest.raises(VariantError, match="--variant FILE.py:CLASS"):
        load(roberta(), folder)
    for given in (f"{tmp_path}/elsewhere.py:Mine", registry.resolve(f"{file}:Mine")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(logits(load(roberta(), folder, strict=True, variant=given).model), expected)
    assert torch.equal(logits(load(roberta(), folder).model), expected), "its code is loaded now, at our own word"


def test_an_edited_formula_is_noticed(mine):
    file, folder, _ = mine
    assert read_adapter(folder)[0]["code"] == code_hash(registry.resolve(f"{file}:Mine"))
    del registry.sys.modules[module_name(file)]
    file.write_text(FORMULA.format(sign="-"))
    with pytest.warns(UserWarning, match="is not what it was trained with"):
        load(roberta(), folder, variant=f"{file}:Mine")
    with pytest.raises(VariantError, match="is not what it was trained with"):
        load(roberta(), folder, variant=f"{file}:Mine", strict=True)


def test_another_class_than_the_files_is_refused(mine):
    file, folder, _ = mine
    with pytest.raises(VariantError, match="holds the variant .*mine.py:Mine', not 'lora'"):
        load(roberta(), folder, variant="lora")
    with pytest.raises(VariantError, match="unknown variant 'lroa'; did you mean lora"):
        named.named_in("x", "lroa")
    assert named.known("lora") is LoRA and named.known("json:JSONDecoder") is None


def test_the_commands_take_the_code_by_a_flag(mine, tmp_path, capsys):
    file, folder, expected = mine
    roberta().save_pretrained(tmp_path / "base")
    base = ["--model", str(tmp_path / "base")]
    assert convert.main([str(folder), str(tmp_path / "again"), "--to", "ours", *base]) == 2
    flag = ["--variant", f"{file}:Mine"]
    assert convert.main([str(folder), str(tmp_path / "again"), "--to", "ours", *base, *flag]) == 0
    assert torch.equal(logits(load(roberta(), tmp_path / "again", variant=f"{file}:Mine").model), expected)
    assert merge.main([str(folder), "--out", str(tmp_path / "merged"), *base, *flag]) == 0
