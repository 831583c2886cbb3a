"""The command of a run, and what is read from its result file."""

import json
from pathlib import Path

import pytest

from modules.efficiency.scaling import command_run
from modules.efficiency.scaling.workloads import workload
from tests.support.results import run
from variants.errors import UserError


def words_of(tmp_path, shape="roberta-base", gpus=2, **changes):
    settings = {"rows": 16, "steps": 50, "epochs": 12, "gpu": True, "results": tmp_path} | changes
    return command_run.command(workload(shape), Path("MODEL"), Path("DATA"), gpus=gpus, **settings)


def test_it_is_the_ordinary_command_with_the_rows_of_all_devices(tmp_path):
    words = " ".join(words_of(tmp_path))
    for part in ("glue.py --variant lora", "--model MODEL", "--tasks mrpc", "--batch_size 32", "--trainer.devices 2"):
        assert part in words
    assert "--trainer.precision bf16-mixed" in words and "--score_epoch" not in words
    assert "e2e.py" in (words := " ".join(words_of(tmp_path, "gpt2-medium"))) and "--score_epoch none" in words
    assert "bf16" not in " ".join(words_of(tmp_path, gpu=False))


def written(monkeypatch, devices):
    def call(words, cache, limit_s):
        folder = Path(words[words.index("--results_dir") + 1]) / "runs"
        folder.mkdir()
        result = json.loads(run("mrpc").to_json())
        result["cost"] |= {"epoch_step_ms": [9.0, 4.0], "tokens": 2 * 50 * 100}
        result["data"]["sizes"] = {"train": 100}
        result["parameters"] = {"adapter": 10, "head": 2, "total": 50}
        result["environment"] = {"devices": devices}
        (folder / "one.json").write_text(json.dumps(result))

    monkeypatch.setattr(command_run, "call", call)


def test_step_times_tokens_and_gradients_come_from_the_result_file(monkeypatch, tmp_path):
    written(monkeypatch, devices=2)
    found = command_run.measure_command(words_of(tmp_path), tmp_path, limit_s=1)
    assert found["epoch_ms"] == [9.0, 4.0] and found["row_tokens"] == 50 and found["bytes"] == 48


def test_a_run_on_other_devices_than_it_was_told_is_no_measurement(monkeypatch, tmp_path):
    written(monkeypatch, devices=1)
    with pytest.raises(UserError, match="trained on 1 devices, not on 2"):
        command_run.measure_command(words_of(tmp_path), tmp_path, limit_s=1)
