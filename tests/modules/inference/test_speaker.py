"""A language model to talk to, from whatever training left."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modules.embedded import LLAMA
from modules.inference.speaker import speaker
from tests.support.tiny import train
from variants import LoRA, attach, convert, merge
from variants.errors import UserError
from variants.formats.native import save_adapter


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, str]:
    """An adapter on the small LLaMA as ours, as PEFT's and merged."""
    folder = tmp_path_factory.mktemp("speakers")
    adapted = attach(AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32), LoRA(r=2, target="all-linear"))
    train(adapted.trained(), 1)
    save_adapter(adapted, folder / "ours")
    model = ["--model", str(LLAMA)]
    assert convert.main([str(folder / "ours"), str(folder / "peft"), "--to", "peft", *model]) == 0
    assert merge.main([str(folder / "ours"), "--out", str(folder / "merged"), *model]) == 0
    return {name: str(folder / name) for name in ("ours", "peft", "merged")}


def logits(found) -> torch.Tensor:
    ids = found.tokenizer("Say red", return_tensors="pt").input_ids
    with torch.no_grad():
        return found.model(ids).logits


def test_every_kind_of_folder_is_one_model(kinds) -> None:
    adapters = [speaker(kinds[name], model=str(LLAMA)) for name in ("ours", "peft")]
    others = [logits(found) for found in (*adapters, speaker(kinds["merged"]))]
    frozen = logits(speaker("embedded"))
    assert (others[0] - frozen).abs().max() > 0.1
    for other in others[1:]:
        torch.testing.assert_close(other, others[0], rtol=0, atol=2e-3)
    assert not adapters[0].model.training and "LlamaForCausalLM, 2M parameters" in adapters[0].title


def test_a_tokenizer_without_chat_template_gets_alpacas(kinds, tmp_path) -> None:
    bare = shutil.copytree(kinds["merged"], tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    assert AutoTokenizer.from_pretrained(bare).chat_template is None
    found = speaker(bare)
    assert "### Instruction:" in found.tokenizer.chat_template and "alpaca, as the tokenizer has none" in found.title


def test_what_is_no_language_model_is_one_line(kinds, tmp_path, runs) -> None:
    with pytest.raises(UserError, match="no run, adapter or model 'nothing': name the folder of one"):
        speaker("nothing")
    with pytest.raises(UserError, match="was trained on glue rte, not to answer in turns"):
        speaker(runs["rte"].folder)
    broken = shutil.copytree(kinds["peft"], tmp_path / "broken")
    config = json.loads((broken / "adapter_config.json").read_text())
    (broken / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "gone/away"}))
    with pytest.raises(Exception, match="gone/away"):
        speaker(broken)
