"""Pretraining on text files: what is a token, what is held out, and a model folder at the end."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from modules.command_line import guarded
from modules.embedded.prose import documents
from modules.pretraining import corpus
from modules.pretraining.causal_lm import END, byte_pairs, stream_rows
from paper_repro import pretrain_gpt2
from variants.errors import UserError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [f"{text}\nCafé £ {number}" for number, text in enumerate(itertools.islice(documents(0, 0), 600))]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory, texts) -> Path:
    """A folder with vocab.json and merges.txt, as GPT-2's is published: bytes, merges, the end token."""
    from tokenizers import ByteLevelBPETokenizer

    folder = tmp_path_factory.mktemp("bpe")
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts[:50], vocab_size=300, special_tokens=[END])
    tokenizer.save_model(str(folder))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory, texts) -> list[str]:
    """The texts in four files, each packed in another way; the last with empty documents."""
    folder = tmp_path_factory.mktemp("text")
    parts = ["\n\n".join(texts[k::4]) for k in range(4)]
    (folder / "a.txt").write_text(parts[0], encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(parts[1].encode()))
    (folder / "c.txt.bz2").write_bytes(bz2.compress(parts[2].encode()))
    (folder / "d.txt.xz").write_bytes(lzma.compress(("\n\n\n\n" + parts[3] + "\n\n \n\n").encode()))
    return [str(path) for path in sorted(folder.iterdir())]


def test_the_tokenizer_is_transformers_own_for_these_files(bpe, texts):
    from transformers import GPT2TokenizerFast

    theirs = GPT2TokenizerFast(str(bpe / "vocab.json"), str(bpe / "merges.txt"))
    ours = byte_pairs(bpe)
    for text in [*texts[:20], " leading", "two  blanks\n\nlines", "naïve 日本 😀"]:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"] and ours.decode(ids) == text
    assert ours.eos_token == END


@pytest.mark.parametrize("processes", [1, 2])
def test_the_stream_is_every_document_with_an_end(bpe, files, texts, processes, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path))
    monkeypatch.setattr(corpus, "_CHUNK", 2000)
    tokenizer = byte_pairs(bpe)
    expected: dict[str, list[int]] = {"train": [], "held_out": []}
    for text in [text for k in range(4) for text in texts[k::4]]:
        name = "held_out" if zlib.crc32(text.encode()) % corpus.HELD_OUT == 0 else "train"
        expected[name] += [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert expected["held_out"], "the test needs a document that is held out"
    streams = corpus.token_stream(files, tokenizer, processes)
    assert {name: stream.tolist() for name, stream in streams.items()} == expected
    assert streams["train"].dtype == np.uint16


def test_a_second_call_reads_the_cache(bpe, files, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_VARIANTS_CACHE", str(tmp_path))
    tokenizer = byte_pairs(bpe)
    first = corpus.token_stream(files[:1], tokenizer, 1)
    monkeypatch.setattr(corpus, "_encode", None)
    assert np.array_equal(corpus.token_stream(files[:1], tokenizer, 1)["train"], first["train"])
    with pytest.raises(TypeError):  # other files are other tokens
        corpus.token_stream(files[1:2], tokenizer, 1)


def test_what_cannot_be_read_is_one_line(bpe, tmp_path):
    tokenizer = byte_pairs(bpe)
    (tmp_path / "bad.gz").write_bytes(b"no gzip")
    (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, says in (("none.txt", "cannot be read"), ("bad.gz", "cannot be read"), ("latin.txt", "utf-8"),
                       ("empty.txt", "no text to train on")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            corpus.token_stream([str(tmp_path / name)], tokenizer, 1)
    with pytest.raises(UserError, match="no tokenizer there"):
        byte_pairs(tmp_path)


def test_rows_are_pieces_of_the_stream():
    import torch

    stream = torch.arange(50, dtype=torch.int32)
    rows = next(stream_rows(stream, 200, 8, seed=0))
    assert rows.shape == (200, 9) and rows.dtype == torch.int64
    assert (rows.diff(dim=1) == 1).all() and rows.min() == 0 and rows.max() >= 48
    with pytest.raises(UserError, match="not enough for rows of --length 49"):
        next(stream_rows(stream, 1, 49, seed=0))


def test_the_held_out_loss_is_that_of_the_whole_stream():
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import GPT2Config, GPT2LMHeadModel

    from modules.pretraining.causal_lm import held_out_loss

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=1)).eval()
    stream = torch.randint(40, (8 * 37 + 1,), dtype=torch.int32)
    with torch.no_grad():
        logits = model(stream[:-1].long().view(37, 8)).logits
        expected = cross_entropy(logits.flatten(0, 1), stream[1:].long()).item()
    assert held_out_loss(model, stream, 8) == pytest.approx(expected, rel=1e-5)
    assert held_out_loss(model, stream[:8], 8) is None


@pytest.mark.slow
def test_the_script_writes_a_folder_that_e2e_trains_from(bpe, files, tmp_path, monkeypatch, capsys):
    from modules.backbones.loading import load_language_model
    from modules.benchmarks.e2e import E2E

    out = tmp_path / "small-gpt2"
    flags = (
        "--device cpu --layers 1 --hidden 16 --heads 2 --positions 64 --length 32 --batch_size 8 --steps 12 --lr 0.01"
    )

    def script(texts: str) -> int:
        monkeypatch.setattr(sys, "argv", ["pretrain_gpt2.py", *flags.split(), "--text", texts, "--bpe", str(bpe)])
        sys.argv += ["--out", str(out)]
        return guarded(pretrain_gpt2.main)

    assert script(",".join(files)) == 0
    record = json.loads((out / "pretraining.json").read_text())
    assert record["steps"] == 12 and record["tokens_seen"] == 12 * 8 * 32
    assert record["corpus"] == [Path(name).name for name in files] and record["held_out_loss"] > 0
    assert record["loss"] < np.log(record["vocabulary"])
    model, tokenizer, backbone = load_language_model(str(out), E2E.embedded())
    assert model.config.vocab_size % 64 == 0 and 0 <= model.config.vocab_size - len(tokenizer) < 64
    assert backbone.max_length == 64 and tokenizer.decode(tokenizer(" Café £ 3")["input_ids"]) == " Café £ 3"
    capsys.readouterr()
    assert script("none.txt") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "none.txt cannot be read" in error


TINY = "--layers 1 --hidden 32 --heads 2 --length 32 --batch_size 32 --steps 8"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu("sums in any order"))])
def test_deterministic_trainings_write_the_same_bytes(device, tmp_path):
    import torch

    flags = [*TINY.split(), "--device", device, "--deterministic", "--out"]
    for name in "ab":
        assert pretrain_gpt2.main([*flags, str(tmp_path / name)]) == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second and not torch.are_deterministic_algorithms_enabled()
    assert json.loads((tmp_path / "a" / "pretraining.json").read_text())["deterministic"]
    with pytest.raises(UserError, match="--minutes ends by a clock"):
        pretrain_gpt2.main(["--deterministic", "--minutes", "1", "--out", str(tmp_path / "c")])
