"""The latency command: result and plot, and mistakes."""

from __future__ import annotations

import json

import pytest
import torch

from modules.command_line import guarded
from modules.efficiency.inference.latency import build
from paper_repro import latency
from tests.support.models import MODELS
from variants import LoRA


def call(*argv: str) -> int:
    return guarded(lambda: latency.main(list(argv)))


@pytest.mark.slow
def test_command_measures_a_model_of_random_weights(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    words = ["--model", "embedded", "--settings", "2x8x20K,1x16", "--rounds", "2", "--out", str(tmp_path)]
    assert call(*words) == 0
    result = json.loads((tmp_path / "embedded-cpu.json").read_text())
    assert result["environment"]["torch"] == torch.__version__ and result["rounds"] == 2
    first, second = result["settings"]
    assert (first["batch"], first["length"], first["parameters"]) == (2, 8, "20K")
    assert second["ways"]["lora"]["r"] == LoRA().r
    for way in ("lora", "adapter_h", "adapter_l"):
        assert abs(first["ways"][way]["parameters"] - 20_000) < 2_000
    assert first["ways"]["plain"]["ratio"] == 1 and first["ways"]["plain"]["ms"] > 0
    out = capsys.readouterr().out
    assert "lora merged" in out and str(tmp_path / "embedded-cpu.svg") in out
    drawn = [(tmp_path / f"embedded-cpu.{kind}").read_bytes() for kind in ("png", "svg")]
    (tmp_path / "embedded-cpu.json").rename(tmp_path / "again.json")
    assert call("--draw", str(tmp_path / "again.json")) == 0
    assert drawn == [(tmp_path / f"again.{kind}").read_bytes() for kind in ("png", "svg")]


def test_any_folder_is_built_from_its_configuration_alone(tmp_path) -> None:
    MODELS["gpt2"]().config.save_pretrained(tmp_path)
    model = build(str(tmp_path), "cpu")
    assert type(model).__name__ == "GPT2ForSequenceClassification" and not next(model.parameters()).is_meta


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--settings", "32x"], "BATCHxLENGTHxPARAMETERS"),
        (["--settings", "0x8"], "BATCHxLENGTHxPARAMETERS"),
        (["--settings", "1x9999"], "positions"),
        (["--variants", "lroa"], "lroa"),
        (["--model", "/nowhere/at/all"], "is no shape"),
        (["--rounds", "0"], "--rounds"),
        (["--device", "cuda:99"], "torch can use"),
        (["--device", "gpu"], "--device must be"),
        (["--draw", "/nowhere/at/all.json"], "no result file"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words: list[str], message: str) -> None:
    assert call("--model", "embedded", "--no_plots", "--out", str(tmp_path / "out"), *words) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
