"""Latency: what is paired with what, that every way computes what it says, and the paper's figures beside it."""

from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
import yaml

from modules.command_line import guarded
from modules.efficiency.inference import hook_latency as hooks
from modules.efficiency.inference import latency as inference_latency
from modules.efficiency.inference.timing import in_turn, ratios
from paper_repro import hook_latency, latency
from tests.support.models import MODELS, inputs
from variants import AdapterL, LoRA


def call(*argv: str) -> int:
    return guarded(lambda: latency.main(list(argv)))


def test_ratios_are_within_rounds(monkeypatch) -> None:
    """A machine that slows down and speeds up from round to round leaves the ratio as it is."""
    now, pace, draw = [0.0], [1.0], random.Random(1)
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    calls: list[str] = []

    def way(name: str, seconds: float):
        def work() -> None:
            if len(calls) % 2 == 0:
                pace[0] = draw.uniform(1, 100)
            calls.append(name)
            now[0] += pace[0] * seconds

        return work

    seconds = in_turn({"plain": way("plain", 1), "slow": way("slow", 1.25)}, rounds=20, warm_up=2)
    assert [len(times) for times in seconds.values()] == [20, 20]
    found = ratios(seconds, "plain")
    assert (found["slow"].median, found["slow"].low, found["slow"].high) == pytest.approx((1.25, 1.25, 1.25))
    rounds = [tuple(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert {frozenset(both) for both in rounds} == {frozenset(("plain", "slow"))}
    assert len(set(rounds)) == 2, "the order is drawn anew"


def test_the_device_is_waited_for() -> None:
    events: list[str] = []
    in_turn({"a": lambda: events.append("a")}, rounds=2, warm_up=1, synchronize=lambda: events.append("wait"))
    assert events == ["wait", "a", "wait"] * 3


@torch.no_grad()
def test_each_way_computes_what_it_says() -> None:
    plain = MODELS["roberta"]().requires_grad_(False)
    batch, before = inputs("roberta"), {k: t.clone() for k, t in plain.state_dict().items()}
    models, sizes = inference_latency.adapted_models(plain, {"lora": LoRA(r=2), "adapter_l": AdapterL(r=3)})
    assert list(models) == ["plain", "plain, a copy", "lora merged", "lora", "adapter_l"]
    out = {name: model(**batch).logits for name, model in models.items()}
    assert torch.equal(out["plain"], out["plain, a copy"])
    assert torch.allclose(out["lora merged"], out["lora"], atol=1e-5)
    assert all((out[name] - out["plain"]).abs().max() > 1e-4 for name in ("lora", "lora merged", "adapter_l"))
    assert all(torch.equal(tensor, before[k]) for k, tensor in plain.state_dict().items()), (
        "the plain model is as it was"
    )
    weights = [model.get_input_embeddings().weight.data_ptr() for model in (plain, models["lora"], models["adapter_l"])]
    assert len(set(weights)) == 1, "unmerged ways share the plain model's memory"
    assert sizes["lora"] == {"parameters": 2 * 2 * 2 * (16 + 16), "r": 2}


def test_the_paper_figures_give_its_slowdowns() -> None:
    paper = yaml.safe_load(inference_latency.PUBLISHED.read_text(encoding="utf-8"))
    for column, setting in enumerate(paper["settings"]):
        found = inference_latency.published("gpt2-medium", setting)
        assert found["lora merged"] == 1
        for row in paper["rows"][1:]:
            assert 100 * (found[row["way"]] - 1) == pytest.approx(row["slowdown"][column], abs=0.05)
    assert inference_latency.published("roberta-base", paper["settings"][0]) == {}
    assert inference_latency.published("gpt2-medium", {"batch": 1, "length": 128, "parameters": "0.5M"}) == {}


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
    model = inference_latency.build(str(tmp_path), "cpu")
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


@torch.no_grad()
def test_hooks_and_replaced_modules_compute_the_same() -> None:
    models = hooks.hooked_and_replaced(layers=1, width=64, r=2, device="cpu")
    ids = torch.randint(5, 1000, (2, 6))
    out = {name: model(ids).logits for name, model in models.items()}
    for a, b in itertools.combinations(out.values(), 2):
        assert torch.allclose(a, b, atol=1e-6)  # B = 0
    for name in ("wrapped", "hooks"):
        adapters = [p for n, p in models[name].named_parameters() if n.endswith((".B", "lora_B"))]
        assert len(adapters) == 2
        for p in adapters:
            p.add_(1)
        assert not torch.allclose(models[name](ids).logits, out["bare"], atol=1e-4)


def test_hook_command_writes_its_figures(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(hooks, "SHAPES", ((1, 64, 2, 5),))
    out = tmp_path / "hooks.json"
    assert hook_latency.main(["--rounds", "3", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [run["train"] for run in result["runs"]] == [False, True]
    assert all(run["median and quartiles"]["wrapped"] == [1, 1, 1] for run in result["runs"])
