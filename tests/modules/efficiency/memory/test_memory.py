"""Memory of training on a base in few bits: models built map by map, real steps in small, the command."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from modules.efficiency.memory.base import packed_model
from modules.efficiency.memory.measure import _tensors, measure
from modules.efficiency.memory.shapes import SHAPES
from paper_repro.memory import main
from variants.quantisation import bits_per_parameter
from variants.sites.kinds.few_bits import is_packed, numel

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install -e '.[quant]'")
CPU = torch.device("cpu")
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 128, "n_positions": 32}


@pytest.mark.parametrize("config", [SHAPES["tiny"].config, GPT2], ids=["llama", "gpt2"])
def test_it_is_the_model_that_transformers_builds(config) -> None:
    """Names, numbers of values, buffers; only its linear maps are packed, and it computes."""
    model = packed_model(config, "nf4-dq", CPU, torch.float32)
    options = {key: value for key, value in config.items() if key != "model_type"}
    whole = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(config["model_type"], **options)
    )
    sizes = {name: p.numel() for name, p in whole.named_parameters()}
    assert {name: numel(p) for name, p in model.named_parameters()} == sizes
    assert all(torch.equal(b, dict(whole.named_buffers())[name]) for name, b in model.named_buffers())
    packed = {name for name, p in model.named_parameters() if is_packed(p)}
    assert len(packed) == (14 if config is not GPT2 else 8) and "lm_head.weight" not in packed
    ids = torch.randint(100, (1, 16))
    logits = model.eval()(input_ids=ids).logits
    assert logits.isfinite().all() and logits.std() > 0
    dense = sum(p.numel() * 4 for p in model.parameters() if not is_packed(p)) + sum(
        b.numel() * 4 for b in model.buffers()
    )
    bits = sum(numel(p) for p in model.parameters() if is_packed(p)) * bits_per_parameter(model) / 8
    found = sum(t.numel() * t.element_size() for t in _tensors(model))
    assert found == pytest.approx(dense + bits, rel=0.02)


def test_real_steps_train() -> None:
    record = measure(SHAPES["tiny"], "nf4", CPU, tokens=64, steps=4, say=lambda line: None)
    assert record["losses"][-1] < record["losses"][0] and record["parts"]["gradients"] == record["parts"]["adapter"]
    assert record["parts"]["optimizer"] == pytest.approx(2 * record["parts"]["adapter"], rel=0.01)


def test_the_command_measures_what_is_missing(tmp_path, capsys) -> None:
    assert main(["--out", str(tmp_path), "--tokens", "32", "--steps", "2"]) == 0
    (file,) = tmp_path.glob("*.json")
    (row,) = json.loads(file.read_text())["rows"].values()
    assert row["scheme"] == "nf4-dq" and "| nf4-dq | adamw | 32 |" in file.with_suffix(".md").read_text()
    capsys.readouterr()
    assert main(["--out", str(tmp_path), "--tokens", "32", "--steps", "2"]) == 0
    assert "measured before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shapes", "8b"], "--shapes: unknown '8b'; there are tiny, 7b"),
        (["--shapes", "7b", "--device", "cpu"], "--shapes 7b is for a GPU"),
        (["--optimizer", "paged-adamw", "--device", "cpu"], "pages a GPU's memory"),
    ],
)
def test_wrong_words(words, message, tmp_path) -> None:
    from variants.errors import UserError

    with pytest.raises(UserError, match=message):
        main([*words, "--out", str(tmp_path)])
