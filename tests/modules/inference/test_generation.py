"""Sentences of an E2E run for meaning representations of either form: those of its test file."""

import sys
from pathlib import Path

import pytest

from modules import predict, train
from tests.support.e2e_tiny import csv_folder, text_folder, tiny_gpt2
from variants.errors import UserError


@pytest.mark.slow
def test_the_test_set_is_said_as_the_run_decoded_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no Java: METEOR takes seconds
    folder = csv_folder(tmp_path / "csv")
    run = train(
        "lora", benchmark="e2e", model=tiny_gpt2(tmp_path / "gpt2"), data_dir=folder, results_dir=tmp_path / "results",
        wandb="off", epochs=1, batch_size=8, max_length=96, max_new_tokens=12, beams=2, trainer={"accelerator": "cpu"},
        r=2, progress=False,
    )  # fmt: skip
    outputs = (run.folder / "test.txt").read_text().splitlines()
    lines = (text_folder(tmp_path / "text") / "test.txt").read_text().splitlines()
    authors = list(dict.fromkeys(line.partition("||")[0] for line in lines))
    assert predict(run, authors)["text"].tolist() == outputs
    import csv

    with open(folder / "testset_w_refs.csv", encoding="utf-8-sig", newline="") as file:
        challenge = list(dict.fromkeys(row["mr"] for row in csv.DictReader(file)))
    assert predict(run, {"mr": challenge})["text"].tolist() == outputs
    with pytest.raises(UserError, match="row 2: expected slots such as name"):
        predict(run, [authors[0], "a pub"])
    with pytest.raises(UserError, match="do not fit the 112 positions"):
        predict(run, [" | ".join([authors[0]] * 9)])
