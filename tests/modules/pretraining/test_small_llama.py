"""Pretraining of the small LLaMA: its text as tokens, and the script's folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from modules.embedded import LLAMA
from modules.embedded.instructions import documents
from modules.pretraining.small_llama import TEXT, letters, written
from paper_repro import pretrain_llama


def test_the_stream_is_what_the_tokenizer_makes_of_every_document():
    tokenizer = letters()
    texts = [text for chunk in range(2) for text in documents(3, chunk)]
    expected = tokenizer("".join(TEXT + text for text in texts))["input_ids"]
    stream = written(3, 2)
    assert stream.dtype == np.uint8 and stream.tolist() == expected
    assert expected.count(tokenizer.convert_tokens_to_ids(TEXT)) == 2000


def test_the_shipped_tokenizer_is_the_one_that_the_script_makes():
    from transformers import AutoTokenizer

    shipped, made = AutoTokenizer.from_pretrained(LLAMA), letters()
    assert shipped.get_vocab() == made.get_vocab() and shipped.chat_template == made.chat_template
    assert (shipped.pad_token, shipped.eos_token) == (made.pad_token, made.eos_token)


@pytest.mark.slow
def test_the_script_writes_a_folder_that_instruct_loads(tmp_path, capsys):
    from modules.backbones.loading import load_language_model
    from modules.benchmarks.instruct import INSTRUCT

    flags = "--device cpu --layers 1 --hidden 24 --heads 6 --length 32 --batch_size 8 --steps 12 --lr 0.01 --chunks 1"
    assert pretrain_llama.main([*flags.split(), "--out", str(tmp_path / "small")]) == 0
    assert "letters" in capsys.readouterr().out
    record = json.loads((tmp_path / "small/pretraining.json").read_text())
    assert record["steps"] == 12 and record["tokens_seen"] == 12 * 8 * 32 and record["corpus"] == "embedded skills"
    assert record["loss"] < np.log(record["vocabulary"])
    model, tokenizer, backbone = load_language_model(str(tmp_path / "small"), INSTRUCT.embedded())
    assert model.config.num_key_value_heads == 2 and backbone.max_length == 256
    assert tokenizer.chat_template == letters().chat_template
    assert tokenizer.decode(tokenizer("rev tabo = obat")["input_ids"]) == "rev tabo = obat"
