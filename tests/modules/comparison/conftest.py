"""Comparisons on a tiny RoBERTa, and workers that score a run by a formula in place of training it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import yaml

from modules.benchmarks.base import benchmark
from modules.comparison.comparison import Comparison
from modules.comparison.file import read
from modules.experiments.wishes import Wishes
from modules.runs.config import RunConfig
from modules.runs.results import ResultStore
from tests.support.results import run as result_of

NOTHING: dict = {}


@pytest.fixture
def make(tiny_model, tiny_tsv, tmp_path):
    """A comparison of one row, `lora`, from what its file says of it and of `tune`."""

    def made(row: dict, tune: dict | None = NOTHING, **changes) -> Comparison:
        content = {
            "common": {"batch_size": 8, "max_length": 32, "epochs": 1, "lr": 0.01},
            "tasks": {"rte": {}},
            "tune": None if tune is None else {"seed": 42, "tasks": ["rte"]} | tune,
            "variants": {"lora": row},
        } | changes
        path = tmp_path / "sweep.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in content.items() if value is not None}, sort_keys=False)
        )
        content = read(path)
        places = {"model": str(tiny_model), "data_dir": str(tiny_tsv), "results_dir": str(tmp_path / "results")}
        return Comparison(path, content, Wishes(benchmark=benchmark(content.benchmark), wandb="off", **places))

    return made


@pytest.fixture
def scored(monkeypatch) -> Callable[..., list[RunConfig]]:
    """``scored(formula)``: workers write formula(run) as a run's score (None: no result); the runs that they got."""

    def install(formula: Callable[[RunConfig], float | None]) -> list[RunConfig]:
        given: list[RunConfig] = []

        def workers(ids: list[str], folder: str, *_) -> int:
            code = 0
            for run in (RunConfig.read(folder, id) for id in ids):
                given.append(run)
                if (score := formula(run)) is None:
                    code = 1
                    continue
                epochs = [{"epoch": 1, "accuracy": score, "loss": 1 - score}]
                known = {"id": run.id, "variant": run.variant, "task": run.task, "seed": run.seed, "epochs": epochs}
                figures = {"variant_config": run.options, "training": run.training, "protocol": run.protocol}
                data = {"data__hash": run.data["hash"], "backbone__hash": run.backbone["hash"]}
                result = result_of(score=score, trainer=run.trainer, **known, **figures, **data)
                ResultStore(folder).write(result)
            return code

        monkeypatch.setattr("modules.launch.jobs.launch.run_workers", workers)
        return given

    return install


def settings(run: RunConfig) -> dict:
    """Options and training settings of a run, by name."""
    return run.options | run.training
