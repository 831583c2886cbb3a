"""--train_embeddings: a run whose new tokens train, from the command to the loaded run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from modules.benchmarks.instruct import INSTRUCT
from modules.inference.load import load_run
from tests.support.runs import carry_out, planned
from variants.new_tokens import described

NEW = ["<start>", "<stop>"]
KEY = "model.embed_tokens.new_tokens.rows"


def test_a_run_with_new_tokens(tmp_path: Path) -> None:
    rows = [{"prompt": f"<start> {word}", "completion": f"{word} <stop>"} for word in ("red", "blue", "green", "black")]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 6))
    command = [
        *("--data", str(tmp_path / "my.jsonl"), "--model", "embedded", "--r", "2", "--seeds", "0"),
        *("--epochs", "1", "--batch_size", "8", "--lr", "0.01", "--max_length", "64", "--wandb", "off"),
        *("--results_dir", str(tmp_path / "results"), "--trainer.accelerator", "cpu"),
    ]
    (plain,) = planned(command, benchmark=INSTRUCT)
    (run,) = planned([*command, "--train_embeddings", ",".join(NEW)], benchmark=INSTRUCT)
    assert run.id != plain.id, "it decides what comes out"
    carry_out(run)
    folder = run.folder / "last"
    start = load_file(folder / "adapter.safetensors")
    assert KEY in start and json.loads((folder / "adapter.json").read_text())["new_tokens"]["tokens"] == NEW
    model, tokenizer = load_run(folder)
    own = described(model)
    assert tokenizer.convert_tokens_to_ids(NEW) == [own["first"], own["first"] + 1]
    rows = model.get_input_embeddings()
    mean = rows.weight[: own["first"]].mean(0)
    assert (rows.new_tokens.rows - mean).abs().amax(1).min() > 1e-3, "they have learnt"
    assert torch.equal(rows.new_tokens.rows, start[KEY])
