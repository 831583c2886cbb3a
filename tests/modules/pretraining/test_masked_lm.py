"""Pretraining of the small RoBERTa: masking, the script's folder, and a killed run that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modules.embedded import ROBERTA
from paper_repro import pretrain_roberta

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_pretraining_script_writes_a_loadable_folder(tmp_path, capsys):
    from transformers import AutoModel, AutoTokenizer

    flags = "--device cpu --layers 1 --hidden 32 --documents 1000 --steps 32 --batch_size 16 --workers 1 --out"
    assert pretrain_roberta.main([*flags.split(), str(tmp_path / "small")]) == 0
    assert "step 32/32" in capsys.readouterr().out
    record = json.loads((tmp_path / "small/pretraining.json").read_text())
    assert record["steps"] == 32 and record["loss"] < 2 * np.log(record["vocabulary"])  # words, and what <s> says
    model = AutoModel.from_pretrained(tmp_path / "small", add_pooling_layer=False)
    shipped = AutoTokenizer.from_pretrained(ROBERTA).get_vocab()
    assert AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab() == shipped, "the shipped vocabulary is stale"
    assert model.config.vocab_size == len(shipped)
    assert not list((tmp_path / "small").glob(".*")), "temporary files left behind"


def test_masking_asks_for_words_that_the_row_had_and_keeps_the_rest():
    import torch

    from modules.pretraining.masked_corpus import MASK
    from modules.pretraining.masked_lm import EOS, PAD
    from modules.pretraining.masked_rows import PICKED, SHARES, mask_words

    torch.manual_seed(0)
    width, tie = 40, 300
    rows = torch.full((600, width + 1), PAD)
    hidden = torch.arange(600) % 3 == 0
    rows[:, 0], rows[:, -1] = 0, torch.where(hidden, 77, -100)
    length = torch.randint(6, 18, (600,))
    for row, n in zip(rows, length.tolist(), strict=True):
        row[1 : n + 1] = torch.randint(MASK + 1, 290, (n,))
        row[n + 1 : n + 3] = EOS
        row[n + 3 : 2 * n + 4] = torch.randint(MASK + 1, 290, (n + 1,))
        if row[-1] == -100:
            row[n + 3] = tie
    original = rows[:, :-1]
    inputs, positions, labels = mask_words(rows, torch.tensor([tie]))
    assert inputs.shape == original.shape and positions.shape == labels.shape == (600, PICKED + 2)
    # the last two: the end of the first part and <s>, which predict a discourse word that is left out
    assert torch.equal(labels[:, -2:], rows[:, -1:].expand(-1, 2)) and (positions[:, -1] == 0).all()
    assert torch.equal(positions[:, -2], length + 1)
    positions, labels = positions[:, :-2], labels[:, :-2]
    chosen = labels != -100
    rare, few, many = ((share * (2 * length + 1)).ceil().long().clamp(max=PICKED) for share in SHARES)
    picked = chosen.sum(1)
    assert torch.equal(picked[hidden], rare[hidden])
    assert ((picked == few) | (picked == many))[~hidden].all() and 0.3 < (picked == many)[~hidden].float().mean() < 0.7
    assert torch.equal(original.gather(1, positions)[chosen], labels[chosen])
    changed = inputs != original
    assert (original[changed] > MASK).all() and (changed.sum(1) <= picked).all()
    assert 0.5 < (inputs == MASK).sum() / chosen.sum() < 0.7
    wrong = changed & (inputs != MASK)  # the other changed words are words of the same row, never its discourse word
    assert 0.2 < wrong.sum() / chosen.sum() < 0.35 and not (inputs[wrong] == tie).any()
    assert all(set(row[at].tolist()) <= set(old.tolist()) for row, old, at in zip(inputs, original, wrong, strict=True))
    asked = labels == tie
    assert 0.2 < asked.any(1)[~hidden].float().mean() < 0.6
    assert (inputs.gather(1, positions)[asked] == MASK).all()
    assert (positions > length[:, None] + 2)[chosen].float().mean() > 0.7


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_to_the_same_weights(tmp_path):
    """Killed in the middle and started again, against an unbroken one."""
    words = "--device cpu --layers 1 --hidden 32 --documents 2000 --steps 480 --batch_size 8 --workers 1 --out"
    flags = words.split()
    broken = subprocess.Popen(
        [sys.executable, str(ROOT / "paper_repro/pretrain_roberta.py"), *flags, str(tmp_path / "broken")],
        stdout=subprocess.DEVNULL,
    )
    until = time.monotonic() + 120
    while not (tmp_path / "broken/checkpoint.pt").is_file() and time.monotonic() < until:
        time.sleep(0.01)
    broken.kill()
    assert broken.wait() == -9, "it ended before it could be killed"
    for name in ("broken", "whole"):
        assert pretrain_roberta.main([*flags, str(tmp_path / name)]) == 0
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert files[0] == files[1] and not (tmp_path / "broken/checkpoint.pt").exists()
