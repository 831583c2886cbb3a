"""The two commands: convert between the formats, with the base model and without, and merge into a plain model."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, RobertaForMaskedLM

from tests.support.small import small
from tests.support.tiny import gpt2, logits, roberta, train
from tests.variants.training.test_batches import batches
from variants import AdaLoRA, DoRA, LoRA, VariantError, VeRA, attach, convert, formats, merge
from variants.base_model import quiet
from variants.formats.native import read_adapter, save_adapter
from variants.formats.peft import AsLoRA
from variants.formats.peft.methods import LORA
from variants.layer import LowRank
from variants.methods.lora import LoRALayer
from variants.registry import names

pytest.importorskip("peft", reason="PEFT is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
BUILDS = {"roberta": roberta, "gpt2": gpt2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Base models as pretraining leaves them, with another head than the adapters have, and a tokenizer file."""
    root = tmp_path_factory.mktemp("models")
    for name, build in BUILDS.items():
        build(num_labels=2).save_pretrained(root / name)
        (root / name / "tokenizer.json").write_text('{"of": "the base"}')
    return root


def based(name: str, folders: Path):
    """The base model in ``folders`` with a head of three labels, as an adapter of three labels finds it."""
    with quiet():
        return AutoModelForSequenceClassification.from_pretrained(
            folders / name, num_labels=3, ignore_mismatched_sizes=True
        )


def saved(name: str, folders: Path, where: Path, variant=None):
    adapted = attach(based(name, folders), variant or LoRA(r=4, alpha=6))
    train(adapted.trained(), 1)
    save_adapter(adapted, where)
    return adapted


def run(module, *arguments) -> int:
    return module.main([str(a) for a in arguments])


@pytest.mark.parametrize("with_model", [True, False], ids=["with model", "without"])
@pytest.mark.parametrize("name", BUILDS)
def test_there_and_back_through_every_format(name, with_model, folders, tmp_path, capsys):
    expected = logits(saved(name, folders, tmp_path / "ours").model)
    model = ["--model", folders / name] if with_model else []
    assert run(convert, tmp_path / "ours", tmp_path / "peft", "--to", "peft", *model) == 0
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["fan_in_fan_out"] == (name == "gpt2")
    assert run(convert, tmp_path / "peft", tmp_path / "back", "--to", "ours", *model) == 0
    assert run(convert, tmp_path / "ours", tmp_path / "lora.bin", "--to", "loralib", *model) == 0
    assert "give its reader lora_alpha=6" in capsys.readouterr().out
    last = [tmp_path / "lora.bin", tmp_path / "last", "--to", "ours", "--alpha", 6, *model]
    if name == "gpt2" and not with_model:  # the file does not say how many parts the fused map has
        assert run(convert, *last) == 2
        assert "give the model as well" in capsys.readouterr().err
        last += ["--model", folders / name]
    assert run(convert, *last) == 0
    for place in ("peft", "back", "last"):
        assert (logits(formats.load(based(name, folders), tmp_path / place).model) - expected).abs().max() < 1e-5
    base = read_adapter(tmp_path / "back")[0]["base"]
    first = read_adapter(tmp_path / "ours")[0]["base"]
    assert base["fingerprint"] == (first["fingerprint"] if with_model else None)


@pytest.mark.parametrize("given", ["by the file", "by hand"])
def test_pefts_file_names_the_base(given, folders, tmp_path, monkeypatch):
    adapted = saved("roberta", folders, tmp_path / "ours")
    if given == "by the file":
        save_adapter(adapted, tmp_path / "ours", backbone={"spec": str(folders / "roberta")})
    monkeypatch.chdir(folders)
    model = ["--model", "roberta"] if given == "by hand" else []
    assert run(convert, tmp_path / "ours", tmp_path / "peft", "--to", "peft", *model) == 0
    named = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str((folders / "roberta").resolve())  # holds from any folder


def test_a_target_written_without_the_model_holds_for_more_than_the_file_names(folders, tmp_path):
    """AdaptedModel blocks only: by their last names alone, the blocks that are not adapted would be so too."""
    saved("roberta", folders, tmp_path / "ours", LoRA(layers="1"))
    assert run(convert, tmp_path / "ours", tmp_path / "peft", "--to", "peft") == 0
    targets = json.loads((tmp_path / "peft/adapter_config.json").read_text())["target_modules"]
    assert targets == [f"roberta.encoder.layer.1.attention.self.{x}" for x in ("query", "value")]
    assert run(convert, tmp_path / "peft", tmp_path / "back", "--to", "ours") == 0
    assert len(formats.load(based("roberta", folders), tmp_path / "back").layers) == 2


@pytest.mark.parametrize("variant", [DoRA(r=4), VeRA(r=4), AdaLoRA(init_r=4, target_r=2)], ids=lambda v: v.name)
def test_the_other_methods_go_to_peft_and_back(variant, folders, tmp_path):
    expected = logits(saved("roberta", folders, tmp_path / "ours", variant).model)
    model = ["--model", folders / "roberta"] if variant.name == "vera" else []
    assert run(convert, tmp_path / "ours", tmp_path / "peft", "--to", "peft", *model) == 0
    assert run(convert, tmp_path / "peft", tmp_path / "back", "--to", "ours", *model) == 0
    assert (logits(formats.load(based("roberta", folders), tmp_path / "back").model) - expected).abs().max() < 1e-5


MERGED = [LoRA(r=4, alpha=6), DoRA(r=4), VeRA(r=4), AdaLoRA(init_r=4, target_r=2)]


@pytest.mark.parametrize("variant", MERGED, ids=lambda v: v.name)
@pytest.mark.parametrize("name", BUILDS)
def test_a_merged_model_is_plain_and_computes_the_same(name, variant, folders, tmp_path, capsys):
    expected = logits(saved(name, folders, tmp_path / "ours", variant).model)
    assert run(merge, tmp_path / "ours", "--model", folders / name, "--out", tmp_path / "merged") == 0
    difference = float(capsys.readouterr().out.split()[-1])
    assert 0 < difference < 1e-5
    plain, loading = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert (logits(plain) - expected).abs().max() < 1e-5
    assert (tmp_path / "merged/tokenizer.json").read_text() == '{"of": "the base"}'
    assert {p.name for p in tmp_path.iterdir()} == {"ours", "merged"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["lora_B", "out_proj.weight"])
def test_an_adapter_that_is_not_finite_is_not_merged(place, value, folders, tmp_path, capsys):
    """In a layer or in the head: exit code 2, the tensor's name, and no folder."""
    adapted = saved("roberta", folders, tmp_path / "ours")
    name, tensor = next((name, tensor) for name, tensor in adapted.trained().items() if place in name)
    with torch.no_grad():
        tensor.view(-1)[0] = value
    save_adapter(adapted, tmp_path / "broken")
    assert run(merge, tmp_path / "broken", "--model", folders / "roberta", "--out", tmp_path / "merged") == 2
    assert f"{name} has values that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_merge_takes_the_other_formats(folders, tmp_path):
    expected = logits(saved("roberta", folders, tmp_path / "ours").model)
    for kind, alpha in (("peft", []), ("loralib", ["--alpha", 6])):
        run(convert, tmp_path / "ours", tmp_path / kind, "--to", kind)
        out = tmp_path / f"merged-{kind}"
        assert run(merge, tmp_path / kind, "--model", folders / "roberta", "--out", out, *alpha) == 0
        assert (logits(AutoModelForSequenceClassification.from_pretrained(out)) - expected).abs().max() < 1e-5


def test_a_merge_that_breaks_off_leaves_nothing(folders, tmp_path, monkeypatch):
    saved("roberta", folders, tmp_path / "ours")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(merge.shutil, "copyfile", full)
    with pytest.raises(OSError, match="no space"):
        merge.merge(tmp_path / "ours", str(folders / "roberta"), tmp_path / "merged")
    assert [p.name for p in tmp_path.iterdir()] == ["ours"]


def as_lora(folder: Path, where: Path, model: Path | None, variant=None) -> dict[str, torch.Tensor] | str:
    """The tensors of PEFT's LoRA that a folder of ours becomes, or the line that says why it becomes none."""
    try:
        convert.convert(folder, where, "peft", model and str(model), as_lora=True, variant=variant)
    except VariantError as error:
        return str(error)
    return load_file(where / "adapter_model.safetensors")


@pytest.mark.parametrize("name", names())
def test_as_lora_is_the_same_without_the_model_or_asks_for_it(name, folders, tmp_path):
    adapted = attach(based("roberta", folders), small(name))
    adapted.init_from_data(batches("roberta"))
    train(adapted.trained(), 1)
    save_adapter(adapted, tmp_path / "ours")
    alone = as_lora(tmp_path / "ours", tmp_path / "alone", None)
    based_on = as_lora(tmp_path / "ours", tmp_path / "based", folders / "roberta")
    if isinstance(alone, str):
        assert "(--model)" in alone or alone == based_on
        assert name not in (*LORA, "lora", "adalora"), "their files hold all that they add"
    else:
        assert alone.keys() == based_on.keys() and all(torch.equal(alone[key], based_on[key]) for key in alone)


class OfTheWeight(LoRALayer):
    """A file of it has the shapes of its maps, and not what it takes from their weights."""

    def __init__(self, site, config, rng):
        super().__init__(site, config, rng)
        if config.kept == "in a buffer":
            self.register_buffer("norm", site.weight().norm(dim=0), persistent=False)
        elif config.kept == "as a number":
            self.scaling *= site.weight().abs().mean().item()

    def low_rank(self):
        A = {"in a buffer": lambda: self.lora_A * self.norm, "as a number": lambda: self.lora_A}
        return LowRank(A.get(self.config.kept, lambda: self.lora_A @ self.site.weight())(), self.lora_B, self.scaling)


@dataclass
class Weighted(LoRA):
    kept: str = "in a buffer"
    layer = OfTheWeight


@pytest.mark.parametrize("how", [True, AsLoRA(2)], ids=["exactly", "nearly"])
@pytest.mark.parametrize("kept", ["in a buffer", "as a number", "nowhere"])
def test_what_a_method_takes_from_the_base_is_not_taken_from_zeros(kept, how, folders, tmp_path):
    adapted = saved("roberta", folders, tmp_path / "ours", Weighted(r=4, kept=kept))
    path = adapted.layers[0].site.path
    given = {"as_lora": how, "variant": Weighted}
    with pytest.raises(VariantError, match=rf"adds to {path} depends on base weights: give the model \(--model\)"):
        convert.convert(tmp_path / "ours", tmp_path / "peft", "peft", **given)
    assert not (tmp_path / "peft").exists()
    convert.convert(tmp_path / "ours", tmp_path / "peft", "peft", str(folders / "roberta"), **given)
    if how is True:
        expected = logits(adapted.model)
        assert (logits(formats.load(based("roberta", folders), tmp_path / "peft").model) - expected).abs().max() < 1e-5
    save_adapter(adapted, tmp_path / "named", backbone={"spec": str(folders / "roberta")})
    convert.convert(tmp_path / "named", tmp_path / "again", "peft", **given)
    one, other = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("peft", "again"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_ours_without_the_model_stays_as_it_was_trained(folders, tmp_path):
    """What is made of the base is made anew where it is loaded."""
    expected = logits(saved("roberta", folders, tmp_path / "ours", Weighted(r=4)).model)
    convert.convert(tmp_path / "ours", tmp_path / "copy", "ours", variant=Weighted)
    again = formats.load(based("roberta", folders), tmp_path / "copy", variant=Weighted)
    assert torch.equal(logits(again.model), expected)


class Crooked(LoRA):
    mergeable = False


def test_what_cannot_be_done_is_one_line_and_leaves_nothing(folders, tmp_path, capsys):
    saved("roberta", folders, tmp_path / "ours")
    saved("roberta", folders, tmp_path / "crooked", Crooked())
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("")
    saved("roberta", folders, tmp_path / "vera", VeRA(r=4))
    save_adapter(attach(based("roberta", folders), LoRA(), head=[]), tmp_path / "headless")
    RobertaForMaskedLM(AutoConfig.from_pretrained(folders / "roberta")).save_pretrained(tmp_path / "lm")
    roberta_folder, model = folders / "roberta", ("--model", folders / "roberta")
    capsys.readouterr()
    for command, line in (
        ((convert, tmp_path / "x", tmp_path / "y", "--to", "peft"), "x is no adapter"),
        ((convert, tmp_path / "ours", tmp_path / "ours", "--to", "peft"), "is the source itself"),
        ((convert, tmp_path / "crooked", tmp_path / "y", "--to", "peft"), "PEFT has no form for"),
        ((convert, tmp_path / "ours", tmp_path / "y", "--to", "peft", "--model", tmp_path), "cannot load the model"),
        ((merge, tmp_path / "ours", "--model", roberta_folder, "--out", tmp_path / "full"), "exists already"),
        ((merge, tmp_path / "crooked", "--model", roberta_folder, "--out", tmp_path / "y"), "cannot be merged"),
        ((merge, tmp_path / "ours", "--model", folders / "gpt2", "--out", tmp_path / "y"), "cannot load"),
        ((merge, tmp_path / "headless", "--model", tmp_path / "lm", "--out", tmp_path / "y"), "lacks classifier."),
        ((convert, tmp_path / "vera", tmp_path / "y", "--to", "peft"), "give the model as well (--model)"),
        ((convert, tmp_path / "vera", tmp_path / "y", "--to", "loralib", *model), "loralib has no form for vera"),
    ):
        assert run(*command) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and line in error and error.count("\n") == 1, error
        assert not (tmp_path / "y").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", ["convert", "merge"])
def test_help_teaches_at_once(name):
    start = time.perf_counter()
    code = (
        f"import sys, variants.{name} as m\ntry: m.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"python -m variants.{name} " in shown and "example" in shown
    assert shown.endswith("False\n") and time.perf_counter() - start < 2


@pytest.mark.slow
def test_the_commands_run_as_modules(folders, tmp_path):
    saved("roberta", folders, tmp_path / "ours")
    command = [sys.executable, "-m", "variants.convert", tmp_path / "ours", tmp_path / "peft", "--to", "peft"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.endswith("lora in peft format\n")


def test_a_low_precision_base_stays_so(folders, tmp_path):
    saved("roberta", folders, tmp_path / "ours")
    roberta().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    merge.merge(tmp_path / "ours", str(tmp_path / "base"), tmp_path / "merged")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16
