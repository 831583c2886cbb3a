"""Runs of three tasks, trained once."""

import pytest

from modules import RunResult, train


@pytest.fixture(scope="session")
def runs(tiny_model, tiny_tsv, tmp_path_factory) -> dict[str, RunResult]:
    """By task, a run of a tiny model: classes, a score, three classes on two dev splits."""
    folder = tmp_path_factory.mktemp("inference") / "results"
    options = {"model": tiny_model, "data_dir": tiny_tsv, "results_dir": folder, "wandb": "off", "epochs": 2}
    options |= {"batch_size": 8, "trainer": {"accelerator": "cpu"}, "r": 2, "progress": False}
    return {task: train("lora", task=task, **options) for task in ("rte", "stsb", "mnli")}
