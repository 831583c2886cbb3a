"""A tiny E2E: a random GPT-2 of width 16 with a word-level tokenizer, and folders of data in both published forms."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from modules.benchmarks.causal.decode import Decoding
from modules.benchmarks.causal.targets import CausalDataModule
from modules.benchmarks.e2e.data import encode, inputs_of
from modules.benchmarks.e2e.objective import Generation
from modules.benchmarks.e2e.text import LINEARISATIONS
from modules.embedded.restaurants import generate

TRAIN, DEV, TEST = 45, 10, 30  # rows: 8, 2 and 4 meaning representations; no multiple of a batch, nor of two processes


def pairs() -> dict[str, list]:
    made = generate(0)
    return {"train": made["train"][:TRAIN], "validation": made["validation"][:DEV], "test": made["test"][:TEST]}


def words() -> list[str]:
    texts = (f"{LINEARISATIONS['authors'](slots)} {text}" for rows in pairs().values() for slots, text in rows)
    return sorted({word for text in texts for word in text.split()})


def tiny_gpt2(folder: Path, **changes) -> Path:
    """The folder of a GPT-2 with 2 layers, dropout off, and its tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from modules.pretraining.causal_lm import word_tokenizer

    tokenizer = word_tokenizer(words())
    options = {"n_positions": 112, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    options |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **options | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text_folder(folder: Path) -> Path:
    """The LoRA authors' text files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train.txt"), ("validation", "valid.txt"), ("test", "test.txt")):
        lines = [f"{LINEARISATIONS['authors'](slots)}||{text} \n" for slots, text in pairs()[split]]
        (folder / name).write_text("".join(lines))
    return folder


def csv_folder(folder: Path) -> Path:
    """The challenge's CSV files; sentences keep the blanks between tokens, which a CSV may have."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "trainset.csv"), ("validation", "devset.csv"), ("test", "testset_w_refs.csv")):
        with open(folder / name, "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file)
            writer.writerow(["mr", "ref"])
            writer.writerows([LINEARISATIONS["challenge"](slots), text] for slots, text in pairs()[split])
    return folder


def result_of(run) -> dict:
    return json.loads((Path(run.results_dir) / "runs" / f"{run.id}.json").read_text())


def objective(splits, tokenizer, smoothing=0.1) -> Generation:
    decoding = Decoding(3, 0.9, 4, 12, 4, (0,), 0)
    inputs = {name: inputs_of(splits[name], tokenizer, "authors") for name in ("validation", "test")}
    return Generation(inputs, tokenizer, decoding, smoothing, "best")


def batches(splits, tokenizer, size=8):
    data = CausalDataModule(
        encode(splits, tokenizer, 96, "authors", "h"), ("validation",), 0, size, size, max_length=96
    )
    return list(data.train_dataloader())
