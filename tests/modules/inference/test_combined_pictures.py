"""Adapters together: the model that paints has both updates, each times its strength."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from modules.backbones.diffusion.families import load_image_model
from modules.benchmarks.dreambooth import DREAMBOOTH
from modules.inference.combined_pictures import acting, combined, together
from modules.inference.load import load_run
from paper_repro import dreambooth
from tests.support.runs import carry_out, planned
from tests.support.tiny_images import pictures, tiny_dit
from variants import DoRA, LoRA, attach
from variants.errors import UserError

TARGET = "to_q,to_k,to_v,to_out.0"


def moved(adapted, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.trained().values():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("other", [LoRA(r=3, alpha=6, target=TARGET), DoRA(r=2, target=TARGET)], ids=["lora", "dora"])
def test_updates_are_added(tmp_path, other):
    model = load_image_model(tiny_dit(tmp_path), "tiny")
    name = "transformer_blocks.0.attn1.to_q"
    plain = model.denoiser.get_submodule(name).weight.detach().clone()
    adapted = attach(model.denoiser, LoRA(r=2, target=TARGET), name="style")
    moved(adapted, 1)
    adapted.add("character", other)
    moved(adapted, 2)
    updates = {}
    for key in ("style", "character"):
        adapted.switch(key)
        adapted.merge()
        updates[key] = model.denoiser.get_submodule(name).weight.detach() - plain
        adapted.unmerge()
    error = acting(adapted, {"style": 0.5, "character": 2.0}, rank=16)
    assert error < 1e-5
    adapted.merge()
    expected = plain + 0.5 * updates["style"] + 2.0 * updates["character"]
    assert torch.allclose(model.denoiser.get_submodule(name).weight, expected, atol=1e-5)
    assert updates["style"].abs().max() > 0.01
    acting(adapted, {"style": 1.0}, rank=16)  # the sum before it is gone
    assert set(adapted.adapters) == {"style", "character", "sum"}


@pytest.mark.slow
def test_the_command_paints_a_grid_of_two_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path / "cache"))
    flags = ["--data", str(pictures(tmp_path / "mine")), "--model", str(tiny_dit(tmp_path / "dit")), "--epochs", "1"]
    flags += ["--seeds", "0,1", "--lr", "1e-2", "--shown", "0", "--paint_steps", "2", "--logger", "none"]
    runs = planned([*flags, "--results_dir", str(tmp_path / "results")], benchmark=DREAMBOOTH)
    for run in runs:
        carry_out(run)
    file = tmp_path / "style.yaml"
    content = {
        "adapters": {"a": str(runs[0].folder), "b": runs[1].id}, "prompts": ["two red circles", "sks"],
        "strengths": [0, 2], "out": str(tmp_path / "grid.png"), "results_dir": str(tmp_path / "results"),
    }  # fmt: skip
    file.write_text(json.dumps(content))  # which is YAML
    assert dreambooth.main(["--combine", str(file)]) == 0
    assert "column 7: 2 a + 2 b" in capsys.readouterr().out
    grid = np.asarray(Image.open(tmp_path / "grid.png"))[2:130]
    base, none, strong, *_, both = (grid[:, 2 + 130 * n : 130 + 130 * n].astype(int) for n in range(7))
    assert abs(none - base).max() <= 1 and abs(strong - base).max() > 1 and abs(both - strong).max() > 1
    assert dreambooth.main(["--combine", str(file), "--force"]) == 2
    with pytest.raises(UserError, match="is of an image model, which paints"):
        load_run(runs[0].folder)


def test_columns_of_the_grid():
    titles = [title for title, _ in together(["style", "character"], (0.5, 1.0))]
    assert titles == [
        "0.5 style", "1 style", "0.5 character", "1 character", "0.5 style + 0.5 character", "1 style + 1 character",
    ]  # fmt: skip
    assert [title for title, _ in together(["style"], (1.0,))] == ["1 style"]


def test_mistakes_are_one_line(tmp_path):
    file = tmp_path / "style.yaml"
    for text, told in (
        ("adapters: {}\nprompts: [a]", "must each name at least one"),
        ("adapters: {a: nowhere}\nprompts: [a]", "there is no run 'nowhere'"),
        ("prompts: [a]", "adapters"),
        ("adapters: {a: b}\nprompts: [a]\nstrenghts: [1]", "strenghts"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=told):
            combined(str(file))
