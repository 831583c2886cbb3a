"""The examples of other search libraries: they search, and what they search with trains."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def formula(variant: str, *, r: int, lr: float, **_) -> SimpleNamespace:
    """In place of `train`: best at r = 8 and a small rate; r = 16 diverges."""
    return SimpleNamespace(score=None if r == 16 else 0.5 - abs(r - 8) / 100 - lr)


def test_optuna_finds_the_best_and_goes_on(tmp_path, monkeypatch):
    module = example("optuna_sweep")
    monkeypatch.setattr(module, "train", formula)
    study = module.main(trials=15, results_dir=str(tmp_path))
    assert study.best_params["r"] == 8 and {each.state.name for each in study.trials} == {"COMPLETE", "PRUNED"}
    assert len(module.main(trials=1, results_dir=str(tmp_path)).trials) == 16


@pytest.mark.slow
def test_what_optuna_calls_trains(tmp_path):
    """Sixteen steps of an epoch."""
    study = example("optuna_sweep").main(1, str(tmp_path), wandb="off", epochs=1, batch_size=128)
    assert 0.5 < study.best_value < 1 and len(list((tmp_path / "runs").glob("*.json"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="needs Ray Tune: pip install 'ray[tune]'")
def test_ray_finds_the_best(tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    module = example("ray_tune")
    module.__name__ = "__main__"  # as when it is run: what it defines travels to Ray's processes
    monkeypatch.setattr(module, "train", formula)
    try:
        best = module.main(trials=6, results_dir=str(tmp_path / "results"))
    finally:
        ray.shutdown()
    assert best.metrics["score"] == formula("lora", **best.config).score
