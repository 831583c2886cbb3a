"""Runs of the benchmark from a person's pictures: figures, pictures, the same again after a break, bad flags."""

import json
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.embedded import FOLDERS
from modules.runs.results import ResultStore
from modules.training.run import run_seeds
from tests.support.runs import carry_out, planned
from tests.support.tiny_images import CAPTIONS, pictures, tiny_dit, tiny_unet
from variants.errors import UserError


@pytest.fixture
def flags(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "cache"))
    return [
        "--data", str(pictures(tmp_path / "mine")), "--model", str(tiny_dit(tmp_path / "dit")), "--logger", "none",
        "--class_prompt", "flat, two red circles", "--prior_weight", "1", "--prior_pictures", "3", "--epochs", "2",
        "--repeats", "2", "--paint_steps", "2", "--shown", "2", "--lr", "1e-2", "--batch_size", "4",
        "--results_dir", str(tmp_path / "results"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_and_its_pictures(tmp_path, flags):
    flags = ["--strengths", "0,0.5", *flags]
    (run,) = planned(flags, benchmark=DREAMBOOTH)
    carry_out(run)
    result = ResultStore(run.results_dir).read(run.id)
    none, half = result.test["neg_drift_at_0"], result.test["neg_drift_at_0.5"]
    assert none == 0 and result.test["neg_drift"] < half < 0
    losses = [-epoch["neg_heldout_loss"] for epoch in result.epochs]
    assert losses[1] < losses[0] and result.data["sizes"] | {"train": 5, "validation": 1} == result.data["sizes"]
    assert result.test["epoch"] == 2 and result.test["nearest"] > 0 and result.test["neg_drift"] < 0
    files = {file.name for file in (run.folder / "pictures").iterdir()}
    assert files == {"epoch-001.png", "epoch-002.png", "test.png", "kept.png", "prompts.json"}
    with Image.open(run.folder / "pictures" / "epoch-001.png") as grid:
        assert grid.size == (2 * 130 + 2, 130 + 2)  # two pictures, each pixel a block of four
    prompts = json.loads((run.folder / "pictures" / "prompts.json").read_text())["test"]
    assert set(prompts) < set(CAPTIONS) and len(prompts) == 5

    (whole,) = planned([*flags[:-1], str(tmp_path / "again")], benchmark=DREAMBOOTH)
    assert whole.id == run.id  # a pure function of what decides it
    carry_out(whole)
    first, second = (load_file(each.folder / "last" / "adapter.safetensors") for each in (run, whole))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert ResultStore(whole.results_dir).read(run.id).test == result.test


@pytest.mark.slow
def test_a_frozen_model_is_scored_and_drifts_nowhere(flags):
    (run,) = planned(flags, variant="head", benchmark=DREAMBOOTH)
    carry_out(run)
    result = ResultStore(run.results_dir).read(run.id)
    assert result.test["neg_drift"] == 0 and result.test["epoch"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["bitfit", "ia3", "eva"])
def test_a_method_without_an_update_to_weigh_is_scored_as_it_is(flags, variant, capsys):
    """``--strengths`` says so and loses nothing; values from data come from noisy pictures."""
    (run,) = planned([*flags, "--strengths", "0.5", "--epochs", "1"], variant=variant, benchmark=DREAMBOOTH)
    carry_out(run)
    scores = ResultStore(run.results_dir).read(run.id).test
    weighed = "neg_drift_at_0.5" in scores
    assert "neg_drift" in scores and weighed == (variant == "eva")
    assert weighed or "no scores at other strengths: " in capsys.readouterr().out


@pytest.mark.slow
def test_stacked_seeds_start_from_the_data_of_each_in_low_precision(flags):
    """The second seed's start failed: it is computed on the first seed's model, which is in bf16 by then."""
    wishes = {"trainer": {"precision": "bf16-mixed"}, "seeds": [0, 1], "variant": "lora_ga", "benchmark": DREAMBOOTH}
    runs = planned([*flags, "--epochs", "1", "--score_epoch", "none"], **wishes)
    first, second = run_seeds(runs)
    assert first.cost["stacked"] == 2 and first.best["neg_heldout_loss"] != second.best["neg_heldout_loss"]


@pytest.mark.slow
def test_a_unet_by_ddpm_and_its_convolutions(tmp_path, flags):
    flags = [*flags, "--model", str(tiny_unet(tmp_path / "unet")), "--target", "attn+conv", "--snr_gamma", "5"]
    (run,) = planned([*flags, "--epochs", "1"], benchmark=DREAMBOOTH)
    carry_out(run)
    weights = load_file(run.folder / "last" / "adapter.safetensors")
    assert any("resnets.0.conv1" in name for name in weights) and any("attn2.to_k" in name for name in weights)
    assert ResultStore(run.results_dir).read(run.id).test["neg_drift"] < 0


def test_a_model_that_ships_goes_by_its_name():
    name, kind, folder = DREAMBOOTH.backbone("embedded-dit")
    assert (name, kind, folder) == DREAMBOOTH.backbone("embedded") and kind == "embedded"
    assert FOLDERS["embedded-unet"].name == "unet"
    with pytest.raises(UserError, match="has no model_index.json"):
        DREAMBOOTH.backbone("embedded-roberta")


def test_bad_flags_are_one_line(tmp_path, flags):
    place = flags.index("--class_prompt")
    without = flags[:place] + flags[place + 2 :]
    with pytest.raises(UserError, match="--prior_weight needs pictures of the class"):
        planned(without, benchmark=DREAMBOOTH)
    with pytest.raises(UserError, match="unknown score 'beauty'"):
        planned([*flags, "--scores", "beauty"], benchmark=DREAMBOOTH)
    with pytest.raises(UserError, match="image models cannot be quantised"):
        planned([*flags, "--quantise", "nf4"], benchmark=DREAMBOOTH)
    with pytest.raises(UserError, match="--strengths must be numbers"):
        planned([*flags, "--strengths", "half"], benchmark=DREAMBOOTH)
    os.unlink(tmp_path / "mine" / "metadata.jsonl")
    with pytest.raises(UserError, match="6 of 6 pictures have no caption"):
        planned(flags, benchmark=DREAMBOOTH)
    with pytest.raises(UserError, match="has no model_index.json"):
        planned([*flags, "--model", str(tmp_path / "mine"), "--instance_prompt", "sks"], benchmark=DREAMBOOTH)
